"""Doubtful verdicts as a labelling project of Label Studio: its tasks, and the configuration that shows them.

    LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=<dataset> label-studio

A new project takes labeling.xml under Labeling Interface and tasks.json under Import. That it may show the pictures of
the dataset, add <dataset>/media as a source storage of kind "Local files", saved and not synced. Where the pictures lie
behind a web server or in a bucket, set `media_prefix` to their address instead. `corrections` reads the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from latefuse.config_judge import ABSTAIN, NOT_RELEVANT, RELEVANT
from latefuse.data.errors import DataError
from latefuse.review.audit import Verdict

LOCAL_FILES = "/data/local-files/?d="
CONTROL = "relevance"
CHOICES = {RELEVANT: "Relevant", NOT_RELEVANT: "Not Relevant"}
KEY = "judgement"
"""Where a task carries the id of its pair: some formats of Label Studio put a number of its own under "id"."""
TASKS, LABELING = "tasks.json", "labeling.xml"
NO_PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mM4AQAAygDJNEIn8wAAAABJRU5ErkJggg=="
)
"""One grey pixel: a task must name a picture that loads."""

CONFIG = f"""<View>
  <Header value="$instruction"/>
  <Image name="image" value="$image"/>
  <Text name="text" value="$text"/>
  <Choices name="{CONTROL}" toName="text" choice="single-radio" required="true" showInLine="true">
    <Choice value="{CHOICES[RELEVANT]}" hotkey="1"/>
    <Choice value="{CHOICES[NOT_RELEVANT]}" hotkey="2"/>
  </Choices>
</View>
"""


def choose(verdicts: Iterable[Verdict], limit: int) -> list[Verdict]:
    """What people should look at: every pair that the judge abstained from, then the most doubtful, up to `limit`.

    Abstentions are all kept, also where they are more than `limit`. Doubtful: a small |probability - threshold|, the
    smallest first. verdicts: in the order in which they were given; of a pair only the last counts.
    """
    latest = {verdict.id: verdict for verdict in verdicts}
    ranked = sorted(latest.values(), key=lambda one: (one.verdict != ABSTAIN, margin(one), one.id))
    abstained = sum(one.verdict == ABSTAIN for one in ranked)
    return ranked[: max(limit, abstained)]


def margin(verdict: Verdict) -> float:
    """How far the probability is from the threshold."""
    return abs(verdict.probability - verdict.threshold)


def task(verdict: Verdict, media_prefix: str = LOCAL_FILES) -> dict[str, Any]:
    """One task of Label Studio, with the verdict as its pre-annotation; an abstention fills nothing in.

    The prediction's score is the probability of the verdict, not of being relevant: Label Studio sorts by it, the
    least sure first, and takes nothing outside of [0, 1].
    """
    chosen = [] if verdict.verdict == ABSTAIN else [CHOICES[verdict.verdict]]
    sure = max(verdict.probability, 1 - verdict.probability)
    scores = {RELEVANT: verdict.probability, NOT_RELEVANT: 1 - verdict.probability, ABSTAIN: sure}
    result = {
        "id": hashlib.sha256(verdict.id.encode()).hexdigest()[:10],
        "from_name": CONTROL,
        "to_name": "text",
        "type": "choices",
        "value": {"choices": chosen},
    }
    return {
        "data": {
            KEY: verdict.id,
            "task": verdict.task,
            "instruction": verdict.instruction,
            "image": _address(verdict.image, media_prefix),
            "text": verdict.text,
            "verdict": verdict.verdict,
            "probability": verdict.probability,
            "rationale": verdict.rationale,
        },
        "predictions": [
            {
                "model_version": " ".join(filter(None, (verdict.model, verdict.adapter_digest[:12]))),
                "score": scores[verdict.verdict],
                "result": [result] if chosen else [],
            }
        ],
    }


def write(verdicts: Sequence[Verdict], folder: Path, media_prefix: str = LOCAL_FILES) -> Path:
    """tasks.json and labeling.xml for a new project of Label Studio, in `folder`; returns the path of the tasks.

    media_prefix: what stands before the reference of a picture. Raises DataError without verdicts.
    """
    if not verdicts:
        raise DataError(f"{folder / TASKS}: no verdict to show to people; loosen the filter, or judge something first")
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [task(verdict, media_prefix) for verdict in verdicts]
    (folder / LABELING).write_text(CONFIG, encoding="utf-8")
    (folder / TASKS).write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return folder / TASKS


def _address(image: str, prefix: str) -> str:
    """Where Label Studio finds a picture; one that is an address already stays."""
    if not image:
        return NO_PICTURE
    return image if "://" in image or image.startswith("data:") else prefix + quote(image)
