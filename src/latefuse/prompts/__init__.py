"""Prompts: a template is data, one renderer turns a conversation into typed segments, one splice into token ids.

`items` does the same for an item of a catalogue. Words that stand in a row or an item can never become a control token
or open a media slot: see `render.py` and `splice.py`.
"""

from latefuse.prompts.items import Item, ItemPrompt, ItemSplicer
from latefuse.prompts.render import MediaRef, PromptError, Segment, escape, render
from latefuse.prompts.splice import Encoded, Splicer
from latefuse.prompts.template import Template, load, template_for

__all__ = [
    "Encoded",
    "Item",
    "ItemPrompt",
    "ItemSplicer",
    "MediaRef",
    "PromptError",
    "Segment",
    "Splicer",
    "Template",
    "escape",
    "load",
    "render",
    "template_for",
]
