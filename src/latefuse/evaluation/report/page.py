"""What all pages share: templates that escape what data say, and how counts and durations are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from latefuse.evaluation.cost import Cost


@dataclass(frozen=True, kw_only=True)
class Page:
    """What every page shows around its numbers.

    manifest: of the dataset. costs: of jobs. facts: name -> text, for the head; repeat: name -> text, how to run it
    again. confidence: of the intervals; fewest: rows below which there is none.
    """

    title: str
    description: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    costs: Sequence[Cost] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    repeat: Mapping[str, str] = field(default_factory=dict)
    confidence: float = 0.95
    fewest: int = 50


def render(template: str, **values: Any) -> str:
    """A template of this package with its values; a name that is not there is an error, not an empty place."""
    environment = Environment(
        loader=PackageLoader("latefuse.evaluation.report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"amount": amount, "seconds": seconds}
    return environment.get_template(template).render(**values)


def amount(value: float | None) -> str:
    """A count for reading: 1,234,567 as '1.23 M'; nothing where there is none."""
    if value is None:
        return ""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if value else "0"


def seconds(value: float | None) -> str:
    """A duration for reading, in seconds or minutes; nothing where there is none."""
    if value is None:
        return ""
    if value >= 90:
        return f"{value / 60:.1f} min"
    return f"{value:.1f} s" if value else "0 s"
