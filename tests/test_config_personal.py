"""The section `personalise` of a task: what fits together and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from latefuse.config import Task


def task(modality: Any = ("image", "text"), **section: Any) -> Task:
    return Task.model_validate({"kind": "personalise", "modality": modality, "personalise": section})


def test_a_task_has_the_papers_settings_by_default():
    made = Task.model_validate({"kind": "personalise", "modality": ["image", "text"]})
    assert made.table == "events"
    assert made.personalise is not None
    assert (made.personalise.k, made.personalise.reduction, made.personalise.beams) == (2, 8, 20)
    assert made.personalise.places == ("self", "cross", "ffn")
    assert task("text", k=0).modality == ("text",)


@pytest.mark.parametrize(
    ("modality", "section", "message"),
    [
        ("text", {}, "counts visual tokens: above 0 with image among the modalities, else 0"),
        (("image", "text"), {"k": 0}, "counts visual tokens"),
        (("video", "text"), {"k": 0}, "a task of kind personalise reads image, text or both"),
        ("image", {"places": ("self", "self")}, "each one once"),
        ("image", {"families": ()}, "at least 1 item"),
        ("image", {"families": ("explanation",)}, "measured beside what comes next or what suits"),
        ("image", {"adapter": "lora", "per_family": True}, "of bottlenecks only"),
        ("image", {"adapter": "lora", "random_base": True}, "behind bottlenecks only"),
        ("text", {"k": 0, "shuffled": True}, "no pictures to shuffle"),
        ("image", {"beam": 3}, "Extra inputs"),
    ],
)
def test_what_does_not_fit_is_refused(modality, section, message):
    with pytest.raises(ValidationError, match=message):
        task(modality, **section)


def test_the_section_is_of_its_kind_alone():
    with pytest.raises(ValidationError, match="a section personalise belongs to a task of kind personalise"):
        Task.model_validate({"kind": "rank", "modality": ["image"], "personalise": {}})
