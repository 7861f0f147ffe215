"""What every part of a configuration is made of: frozen, closed to unknown keys, with errors that name the key."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from latefuse.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]


class ConfigError(UserError, ValueError):
    """A recipe, profile or override that can't be used; the message names the file, the key and what to do."""


class Section(BaseModel):
    """A frozen part of the configuration in which an unknown key is an error, and so are NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the canonical JSON of this section."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


S = TypeVar("S", bound=Section)


def checked(schema: type[S], raw: Mapping[str, Any], path: Path | str) -> S:
    """`raw` as a section of the configuration; `path` is what an error calls it. Raises ConfigError."""
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {_explain(schema, item)}" for item in error.errors()]
        raise ConfigError("\n".join([f"{path}: {len(lines)} problem(s)", *lines])) from None


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both together, section by section; `over` wins."""
    out = dict(base)
    for key, value in over.items():
        known = out.get(key)
        out[key] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return out


def _explain(schema: type[BaseModel], item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key{nearest(str(item['loc'][-1]), _fields_at(schema, item['loc'][:-1]))}"
    return f"{where}: {item['msg']} (got {item.get('input')!r:.80})"


def _fields_at(schema: Any, loc: tuple[Any, ...]) -> list[str]:
    """The valid keys of the section at `loc`; a mapping such as `tasks` is passed through by its value type."""
    for part in loc:
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            field = schema.model_fields.get(str(part))
            schema = field.annotation if field else None
        elif getattr(schema, "__origin__", None) is dict:
            schema = schema.__args__[1]
    return list(schema.model_fields) if isinstance(schema, type) and issubclass(schema, BaseModel) else []


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known word, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}" if known else ""
