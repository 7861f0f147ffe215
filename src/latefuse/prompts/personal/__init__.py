"""Personalised multimodal prompts (VIP5, arXiv 2305.14302): templates as data, fields, ids of items, token ids.

An item is its number followed by visual slots; words that stand in a name, a title or a review can open no slot.
"""

from latefuse.prompts.personal.fields import Directory, Encoded, Fields, Limits
from latefuse.prompts.personal.splice import PersonalSplicer
from latefuse.prompts.personal.template import FAMILIES, PersonalTemplate, family, family_of, names, template

__all__ = [
    "FAMILIES",
    "Directory",
    "Encoded",
    "Fields",
    "Limits",
    "PersonalSplicer",
    "PersonalTemplate",
    "family",
    "family_of",
    "names",
    "template",
]
