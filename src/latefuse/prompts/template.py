"""The templates: one YAML file each, a checked record, a family of backbones mapped to one of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from latefuse.sections import Section

FOLDER = Path(__file__).parent / "templates"


class Cut(Section):
    """What may be left out of a row that is too long, slot by slot.

    `oldest` drops whole exchanges (a question with its answer) from the first on. Media are never cut: those of a
    dropped question move to the front of the oldest question that stays.
    """

    system: Literal["never"] = "never"
    history: Literal["oldest", "never"] = "oldest"
    question: Literal["never"] = "never"
    answer: Literal["never"] = "never"
    media: Literal["never"] = "never"


class Template(Section):
    """How turns become text. `{text}` is the slot of a turn, `{end}` the end token.

    families: the model types that use it. begin: whether the tokenizer's begin token opens the row. open: what stands
    before an answer. close: what stands behind its end token. end: the end token, None for the tokenizer's own.
    control: the literals of this template that are single tokens. media_break: what stands between media at the front
    of a question and its words. absent: the words in the place of a medium that is not there.
    """

    name: str
    families: tuple[str, ...] = ()
    begin: bool
    system: str = ""
    user: str = Field(pattern=r"\{text\}")
    open: str = Field(min_length=1)
    answer: str = Field(pattern=r"\{text\}.*\{end\}$")
    close: str = ""
    end: str | None = None
    control: tuple[str, ...] = ()
    media_break: str = "\n"
    absent: dict[str, str]
    cut: Cut = Cut()


@cache
def load(name: str) -> Template:
    """The template of that name. Raises ValueError with the known names."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"no prompt template {name!r}; known: {', '.join(names())}")
    return Template.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def names() -> list[str]:
    """The names of all templates, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def template_for(family: str, tokenizer: Any = None) -> Template:
    """The template of a model type; a tokenizer that was built for another says so in its `prompt_template`."""
    asked = (getattr(tokenizer, "init_kwargs", None) or {}).get("prompt_template")
    if asked:
        return load(asked)
    for name in names():
        if family in load(name).families:
            return load(name)
    known = sorted(family for name in names() for family in load(name).families)
    raise ValueError(f"no prompt template for a backbone of type {family!r}; known types: {', '.join(known)}")
