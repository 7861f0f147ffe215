"""The templates of item prompts: one YAML file each, a checked record of sections that compress their fields."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, StringConstraints, model_validator

from latefuse.sections import Section

FOLDER = Path(__file__).parent / "templates" / "items"
VALUE = "{value}"
MEDIA = ("image", "video")

ItemField = Literal["image", "video", "title", "topic", "content"]
Words = Literal["title", "topic", "content"]


class Compression(Section):
    """A part of a prompt whose last token is pooled.

    fields: what it shows, in order. open: what stands before them. close: what asks for the compression; the state of
    its last token is pooled. then: what stands between its marker and the next section.
    """

    fields: tuple[ItemField, ...] = Field(min_length=1)
    open: str = ""
    close: str = Field(min_length=1)
    then: str = ""


class ItemTemplate(Section):
    """How the fields of an item become a prompt.

    conversations: the conversation templates whose backbones use this one; empty for all others. fields: a field's own
    words around its `{value}`. join: between fields; topics: between topics. A section that is not the last shows one
    modality, whose view is pooled there and whose marker follows. cut: the words that may be left out, those first that
    stand first; media, markers and the words of the template never are.
    """

    name: Literal["basic", "micl", "none"]
    conversations: tuple[str, ...] = ()
    fields: dict[ItemField, Annotated[str, StringConstraints(pattern=r"\{value\}")]]
    join: str
    topics: str
    sections: tuple[Compression, ...] = Field(min_length=1)
    cut: tuple[Words, Words, Words] = ("content", "topic", "title")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        shown = [field for section in self.sections for field in section.fields]
        if sorted(shown) != sorted(self.fields):
            raise ValueError(f"fields {sorted(self.fields)}, but the sections show {sorted(shown)}: each once")
        if len(set(self.cut)) != len(self.cut):
            raise ValueError(f"cut {list(self.cut)}: each of title, topic and content once")
        for section in self.sections[:-1]:
            if len(section.fields) != 1 or section.fields[0] not in MEDIA:
                raise ValueError(f"a section before the last shows one modality, not {list(section.fields)}")
        return self


@cache
def load(file: str) -> ItemTemplate:
    """The template in that file of the folder, without its ending."""
    return ItemTemplate.model_validate(yaml.safe_load((FOLDER / f"{file}.yaml").read_text(encoding="utf-8")))


def files() -> list[str]:
    """The files of all templates, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def item_template(prompt: str, conversation: str) -> ItemTemplate:
    """The template of a prompt for backbones of a conversation template: one made for it, else the one for all."""
    found = [template for template in map(load, files()) if template.name == prompt]
    own = [template for template in found if conversation in template.conversations]
    general = [template for template in found if not template.conversations]
    if not own and not general:
        raise ValueError(f"no item prompt {prompt!r}; known: {', '.join(sorted({load(f).name for f in files()}))}")
    return (own or general)[0]
