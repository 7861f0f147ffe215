"""A ranker measured: every arm on the same rows, all that is chosen chosen on validation rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fake_rank
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from latefuse import tasks
from latefuse.config import Evaluation, Task
from latefuse.data.errors import DataError
from latefuse.evaluation import ranking
from latefuse.evaluation.arm_sources import Unit
from latefuse.evaluation.calibration import ScoresError
from latefuse.evaluation.ranking import Sources
from latefuse.evaluation.scores import NO_SEED
from latefuse.models.backbone import load
from latefuse.training.features import Features

ODD = {
    "broken": Task.model_validate(fake_rank.MAIN),
    "elsewhere": Task.model_validate({**fake_rank.MAIN, "rank": {"label": {"at_least": 4}}}),
}


@pytest.fixture(scope="module")
def sources(backbone_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    data, found = fake_rank.dataset(tmp_path_factory.mktemp("data")), {}
    arms = fake_rank.arms() | ODD
    for arm in arms:
        for seed in (0, 1) if arm == "both" else (0,):
            folder = fake_rank.adapter(tmp_path_factory.mktemp(arm) / str(seed), arm, seed, data)
            found[seed, arm] = folder / "adapter"
    backbone = load(backbone_folder("llava_onevision"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tasks.KINDS, "rank", "fake_rank")
        yield Sources(backbone, Features(backbone, data.media), data, "both", arms, found, Evaluation())


def test_every_arm_is_asked_and_the_better_ones_know_more(sources: Sources) -> None:
    units = [unit for unit in sources.units() if unit.source not in ODD]
    assert [str(unit) for unit in units[:2]] == ["both, seed 0", "both, seed 1"]
    assert [str(unit) for unit in units[-4:]] == ["majority", "popularity", "logistic", "trees"]
    test = sources.rows("test")
    found = {str(unit): sources.measure(unit) for unit in units}
    area = {name: roc_auc_score(test.labels, one.answers.scores) for name, one in found.items()}
    assert area["majority"] == 0.5
    assert 0.5 < area["ids-only, seed 0"] < area["text-only, seed 0"] < area["both, seed 0"] < 0.99
    assert area["logistic"] == pytest.approx(area["both, seed 0"], abs=0.05)
    assert area["shuffled, seed 0"] < area["both, seed 0"] - 0.05
    assert {name: set(one.knocked) for name, one in found.items() if one.knocked} == {
        "both, seed 0": {"shuffled:image"}, "both, seed 1": {"shuffled:image"},
    }  # fmt: skip
    assert roc_auc_score(test.labels, found["both, seed 0"].knocked["shuffled:image"]) < area["both, seed 0"] - 0.1
    assert all(one.left_out == {"test": 3} for one in found.values())
    assert found["both, seed 0"].speed > 0 == found["logistic"].speed


def test_probabilities_and_thresholds_are_those_of_validation_rows(sources: Sources) -> None:
    found, valid = sources.measure(Unit(0, "both")), sources.rows("valid")
    assert found.ruling.calibration is not None
    assert found.ruling.calibration.scale == pytest.approx(0.5, rel=0.25)  # the scores are twice too sure
    known = fake_rank.predict(sources.backbone, valid, features=None, batch_size=1).numpy()
    said = found.ruling.probability(known) >= found.ruling.threshold.value
    assert 0.02 < said[~valid.labels].mean() <= 0.05
    assert found.ruling.threshold.false_positive_rate == pytest.approx(said[~valid.labels].mean())
    answers = found.answers
    assert (answers.said == (answers.probability >= found.ruling.threshold.value)).all()
    assert (answers.offered == (answers.probability >= found.offer.threshold)).all()
    assert (answers.expected == (answers.probability >= 0.2 / 1.2)).all()


def test_majority_and_popularity_are_what_their_names_say(sources: Sources) -> None:
    found = sources.measure(Unit(NO_SEED, "majority")).answers
    assert np.ptp(found.probability) == 0
    assert found.probability[0] == pytest.approx(sources.rows("valid").labels.mean())
    assert found.raw is not None
    assert found.raw[0] == pytest.approx(sources.rows("train").labels.mean(), abs=0.001)
    assert not found.said.any()
    popular = sources.measure(Unit(NO_SEED, "popularity")).answers
    assert popular.raw is None
    assert (np.argsort(popular.scores) == np.argsort(sources.rows("test").likes)).mean() > 0.5


def test_of_many_test_rows_some_are_measured(sources: Sources) -> None:
    few = replace(sources, evaluation=Evaluation.model_validate({"ranking": {"max_rows": 100}}), _kept={})
    assert len(few.rows("test")) == 100
    assert few.rows("test").names[-1] == sources.rows("test").names[-1]
    assert len(few.rows("valid")) == 600


def test_counts_are_of_all_training_rows(sources: Sources) -> None:
    task = Task.model_validate({**fake_rank.MAIN, "rank": {"imbalance": {"keep_negatives": 0.1, "loss": "weighted"}}})
    kept = ranking.rank_of(ranking.whole(task)).imbalance
    assert (kept.keep_negatives, kept.loss) == (1, "bce")


def test_broken_scores_and_other_rows_are_told(sources: Sources) -> None:
    with pytest.raises(ScoresError, match=r"broken, seed 0, validation: 600 of 600 scores are not finite"):
        sources.measure(Unit(0, "broken"))
    with pytest.raises(DataError, match=r"elsewhere: its test rows differ from those of both in their users"):
        sources.measure(Unit(0, "elsewhere"))


def test_slices_are_neither_empty_nor_everything(sources: Sources) -> None:
    rows = sources.rows("test")
    found = ranking.slices(rows)
    assert set(found) == {"cold item", "cold user", "warm", "no item picture"}
    assert rows.cold_item[found["cold item"]].all()
    assert len(found["warm"]) == (~rows.cold_item & ~rows.cold_user).sum()


def test_arms_are_told_in_words(sources: Sources) -> None:
    told = {arm.name: (arm.group, arm.meaning) for arm in ranking.arms_of(sources)}
    assert list(told)[:4] == ["majority", "popularity", "logistic", "trees"]
    assert list(told)[-1] == "both"
    assert told["both"] == ("main", "reads ids, counts, text as summaries, pictures; plain cross-entropy")
    assert told["shuffled"][1].endswith("another item's image; plain cross-entropy")
    assert told["focal"][1].endswith("focal loss")
    lean = Task.model_validate({"kind": "rank", "modality": [], "rank": {"ids": False, "numbers": False}})
    assert ranking.meaning(lean) == "reads nothing; plain cross-entropy"
    full = {"text": "averaged", "picture": "words", "attributes": ["genre"], "imbalance": {"keep_negatives": 0.25}}
    told_full = ranking.meaning(Task.model_validate({**fake_rank.MAIN, "rank": full}))
    assert told_full.startswith("reads ids, counts, genre, text as the mean of reviews, pictures in words; ")
    assert told_full.endswith("; plain cross-entropy; 25% of negatives")
