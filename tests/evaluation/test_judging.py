"""A judge measured: floors, controls and knock-outs on the same rows, verdicts by what validation rows allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latefuse.config import Evaluation, Job, Task
from latefuse.config_judge import NOT_RELEVANT, RELEVANT
from latefuse.data.dataset import Dataset, write_dataset
from latefuse.data.errors import DataError
from latefuse.evaluation import judging
from latefuse.evaluation.arm_sources import Unit
from latefuse.evaluation.judging import Sources, shuffled
from latefuse.evaluation.scores import NO_SEED
from latefuse.models.backbone import load
from latefuse.steps import finetune
from latefuse.tasks import judge
from latefuse.tracking import Null
from latefuse.training.features import Features

MAIN: dict[str, Any] = {
    "kind": "judge", "modality": ["image", "text"], "judge": {"demos": 2},
    "train": {"max_steps": 2, "batch_size": 8, "lr": 0.01, "max_tokens": 4096}, "adapter": {"r": 4},
}  # fmt: skip
ARMS = {
    "judge": Task.model_validate(MAIN),
    "text-only": Task.model_validate({**MAIN, "modality": ["text"], "judge": {"demos": 0}}),
}


@pytest.fixture(scope="module")
def sources(judged: Dataset, backbone_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Sources:
    base, found = backbone_folder("llava_onevision"), {}
    for arm, task in ARMS.items():
        out = tmp_path_factory.mktemp(arm)
        job = Job(name=arm, seed=0, tasks={"judge": task})
        finetune.run(job, judged.path, base, out, Null(), out / "cache")
        found[0, arm] = out / "adapter"
    backbone = load(base)
    features = Features(backbone, judged.media)
    return Sources(backbone, features, judged, "judge", ARMS, found, Evaluation(batch_size=8))


def test_every_arm_answers_the_same_rows(sources: Sources) -> None:
    units = sources.units()
    assert [str(unit) for unit in units] == [
        "judge, seed 0",
        "text-only, seed 0",
        "majority",
        "zero-shot",
        "linear map",
    ]
    rows = [row["id"] for row in sources.rows("test")]
    for unit in units:
        found = sources.measure(unit)
        assert [one["id"] for one in found.predictions] == rows
        assert {one["verdict"] for one in found.predictions} <= {RELEVANT, NOT_RELEVANT}
        assert set(found.rulings) == {"fits", "differs"}
        frame = found.scores.table().frame
        conditions = set(frame["condition"].to_list())
        knocked = (
            {"shuffled:image", "absent:image", "shuffled:text", "absent:text"} if unit.source == "judge" else set()
        )
        assert conditions == {"full", *knocked}
        told = frame.filter(condition="full", metric="accuracy")["value"].mean()
        right = [(one["verdict"] == RELEVANT) == one["label"] for one in found.predictions]
        assert told == pytest.approx(np.mean(right))


def test_majority_says_one_thing_a_task(sources: Sources) -> None:
    found = sources.measure(Unit(NO_SEED, "majority"))
    said = {(one["task"], one["verdict"]) for one in found.predictions}
    assert len(said) == 2
    assert all("validation" in ruling.told[0] for ruling in found.rulings.values())


def test_predictions_are_the_scores_of_the_loaded_adapter(sources: Sources) -> None:
    found = sources.measure(Unit(0, "judge"))
    rows = judge.examples(sources.dataset, ARMS["judge"], "test", sources.backbone)
    scores = judge.score(sources.backbone, rows, ARMS["judge"].judge, features=sources.features)
    assert [one["score"] for one in found.predictions] == pytest.approx(scores.tolist(), abs=1e-4)
    untrained = sources.measure(Unit(NO_SEED, "zero-shot"))
    assert [one["score"] for one in untrained.predictions] != pytest.approx(scores.tolist(), abs=1e-4)


def test_shuffling_gives_every_row_another_one_s_side() -> None:
    rows = [{"id": str(n), "task": "", "image": "" if n == 3 else f"media/{n}.png", "text": "x"} for n in range(8)]
    found = shuffled(rows, "image", 0)
    assert found[3] == rows[3]
    assert all(new["image"] != old["image"] for new, old in zip(found, rows, strict=True) if old["id"] != "3")
    assert sorted(row["image"] for row in found) == sorted(row["image"] for row in rows)


def test_shared_pictures_are_shuffled_as_pictures_and_within_a_task() -> None:
    rows = [{"id": str(n), "task": "ab"[n % 2], "image": f"media/{n % 4}.png", "text": "x"} for n in range(12)]
    found = shuffled([*rows, {"id": "alone", "task": "c", "image": "media/9.png", "text": "y"}], "image", 0)
    assert found[-1]["image"] == "media/9.png"
    for new, old in zip(found, rows, strict=False):
        assert new["image"] != old["image"]
        assert int(new["image"][6]) % 2 == int(old["image"][6]) % 2


def test_rows_too_long_to_be_asked_are_counted_and_spoil_nothing(sources: Sources, tmp_path: Path) -> None:
    long = "word " * 5_000
    rows = [
        {**row, "image": "", "text": long if row["id"] in ("fits-33", "fits-41") else row["text"], "split_item": split}
        for split in ("train", "valid", "test")
        for row in sources.dataset.rows("judgements", split)
    ]
    changed = write_dataset(tmp_path / "long", {"judgements": rows})
    found = replace(sources, dataset=changed).measure(Unit(NO_SEED, "zero-shot"))
    assert found.left_out == {"valid": 1, "test": 1}
    assert not any("finite" in told for ruling in found.rulings.values() for told in ruling.told)
    assert len(found.predictions) == len(changed.rows("judgements", "test")) - 1


def test_no_test_row_is_told(sources: Sources, tmp_path: Path) -> None:
    rows = [{**row, "split_item": "train"} for row in sources.dataset.rows("judgements", "train")]
    bare = write_dataset(tmp_path / "bare", {"judgements": [{**row, "image": ""} for row in rows]})
    with pytest.raises(DataError, match="no judgement in split 'test'"):
        Sources(sources.backbone, sources.features, bare, "judge", ARMS, {}, Evaluation()).rows("test")
    assert judging.meaning(ARMS["judge"]) == "reads image and text; 2 demonstrations, with the rule"
