"""What tests of people in the loop share: the verdicts of a judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from latefuse.review.audit import Verdict


@pytest.fixture
def verdict() -> Callable[..., Verdict]:
    """(id, probability, fields) -> a verdict at the threshold 0.5."""

    def made(id: str, probability: float = 0.7, **fields: Any) -> Verdict:
        said = "relevant" if probability >= 0.5 else "not relevant"
        known: dict[str, Any] = {
            "task": "claims", "instruction": "every claim fits the picture", "image": "media/ab/picture.png",
            "text": f"text of {id}", "score": 1.25, "verdict": said, "threshold": 0.5, "model": "tiny",
            "backbone_digest": "b" * 64, "adapter_digest": "a" * 64, "config_digest": "c" * 16,
            "time": "2026-11-22T09:30:00Z",
        }  # fmt: skip
        return Verdict(id=id, probability=probability, **known | fields)

    return made
