"""Verdicts as one self-contained page: picture, text, instruction, probability, verdict and reason, doubtful first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from latefuse.config_judge import ABSTAIN, NOT_RELEVANT, RELEVANT
from latefuse.data.errors import DataError
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.report import charts, pictures
from latefuse.review.audit import Verdict

LOOKS = {RELEVANT: ("yes", "✓", "merge"), NOT_RELEVANT: ("no", "✗", "separate"), ABSTAIN: ("open", "≈", "control")}
"""Of a verdict: the class of its words, its sign, and the colour group of its bar."""


def build(
    verdicts: Sequence[Verdict],
    media: Callable[[str], Path] = Path,
    title: str = "Verdicts to look at",
    facts: Mapping[str, str] | None = None,
) -> str:
    """The page as one string of HTML that asks nothing of any network; cards stand in the order of `verdicts`.

    verdicts: as `export.choose` orders them. media: the file of a picture by its reference, for instance
    `Dataset.media`; a picture that is not there or can't be read is told as such. facts: name -> text, for the head.
    """
    sections = (
        ("abstained", "Abstained", "The judge gave no verdict.", [one for one in verdicts if one.verdict == ABSTAIN]),
        ("decided", "Decided", "The judge gave a verdict.", [one for one in verdicts if one.verdict != ABSTAIN]),
    )
    groups = [
        {"anchor": anchor, "title": name, "note": note, "cards": [_card(one, media) for one in chosen]}
        for anchor, name, note, chosen in sections
        if chosen
    ]
    head = {"verdicts": f"{len(verdicts):,}", **(facts or {})}
    page = {"title": title, "description": "", "facts": head}
    return _environment().get_template("gallery.html.j2").render(report=page, groups=groups)


def _environment() -> Environment:
    """Templates of this package, on the page of the reports."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(name, ".") for name in ("latefuse.review", "latefuse.evaluation.report")]),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _card(verdict: Verdict, media: Callable[[str], Path]) -> dict[str, Any]:
    tone, sign, group = LOOKS[verdict.verdict]
    probability, threshold = f"{100 * verdict.probability:.1f}%", f"{100 * verdict.threshold:.1f}%"
    known = Estimate(verdict.probability, nan, nan, 1)
    said = f"probability {probability}, threshold {threshold}"
    return {
        "said": verdict,
        "picture": _picture(verdict.image, media) if verdict.image else None,
        "tone": tone,
        "sign": sign,
        "probability": probability,
        "threshold": threshold,
        "bar": charts.bar(known, charts.Scale(0.0, 1.0), group, verdict.threshold, said),
    }


def _picture(ref: str, media: Callable[[str], Path]) -> str | None:
    try:
        return pictures.image(media(ref))
    except DataError:
        return None
