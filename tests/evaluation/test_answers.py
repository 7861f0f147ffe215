"""Closed lists, ranking and late fusion against brute force."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latefuse.config import Evaluation, Task
from latefuse.data.dataset import Dataset, write_dataset
from latefuse.evaluation.answers import Bench, ClosedList, answer, closed_lists
from latefuse.evaluation.fused import answer_fused
from latefuse.fusion.late import Shared, shared
from latefuse.fusion.scores import mix
from latefuse.models.adapters import active
from latefuse.models.name_search import Ranked
from latefuse.tasks import instruct
from latefuse.tasks.instruct import Example
from latefuse.training.features import Features

TASKS = {"image": Task(modality="image"), "video": Task(modality="video"), "text": Task(modality="text")}
WEIGHTS = {"image": 0.7, "video": 0.2, "text": 0.4}


@pytest.fixture
def bench(dishes: Path, fresh_backbone: Callable[..., Any], tmp_path: Path) -> Bench:
    """The dishes in front of a bare tiny backbone."""
    data, backbone = Dataset(dishes), fresh_backbone()
    features = Features(backbone, data.media, tmp_path)
    return Bench(backbone, features, Evaluation(batch_size=16), closed_lists(data, backbone))


def test_closed_lists_hold_every_name_of_a_topic(bench: Bench) -> None:
    assert sorted(bench.lists) == [("answer", "colour"), ("name", "dish")]
    assert len(bench.lists["name", "dish"].names) == 6
    assert bench.lists["answer", "colour"].names == ["black", "blue", "gold", "green", "red", "white"]


def test_names_that_tokenise_alike_share_a_place(fresh_backbone: Callable[..., Any], tmp_path: Path) -> None:
    names = ("red rice", "red rice ", "blue tart")
    rows = [
        {
            "id": str(k), "modality": "text", "topic": "dish", "item": str(k), "media": [], "split_item": "train",
            "turns": [{"role": "user", "text": f"q{k}"}, {"role": "assistant", "text": name}],
            "truth": json.dumps({"name": name}),
        }
        for k, name in enumerate(names)
    ]  # fmt: skip
    write_dataset(tmp_path, {"conversations": rows}, source="small")
    closed = closed_lists(Dataset(tmp_path), fresh_backbone())["name", "dish"]
    assert closed.names == ["blue tart", "red rice"]
    assert closed.place == {"blue tart": 0, "red rice": 1}


def test_names_are_ranked_and_answers_written(bench: Bench, dishes: Path) -> None:
    rows = instruct.examples(Dataset(dishes), TASKS["text"], "test", bench.backbone)
    asked: list[str] = []

    def rank(part: Sequence[Example], closed: ClosedList, truths: Tensor) -> Ranked:
        """Names by length, so that the expected ranks are plain."""
        order = sorted(range(len(closed.names)), key=lambda k: (len(closed.names[k]), k))
        top = torch.tensor(order[:5]).expand(len(part), -1)
        return Ranked(torch.tensor([order.index(truth) for truth in truths.tolist()]), top)

    def write(part: Sequence[Example]) -> list[str]:
        asked.extend(row.topic for row in part)
        return [str(row.truth["answer"]).upper() for row in part]

    answers = answer(bench, rows, rank, write)
    assert set(asked) == {"colour"}
    for row, said in zip(rows, answers, strict=True):
        names = bench.lists["name" if row.topic == "dish" else "answer", row.topic].names
        order = sorted(names, key=lambda name: (len(name), names.index(name)))
        assert said.rank == order.index(row.answer)
        assert said.top == order[:5]
        if row.topic == "dish":
            assert said.text == order[0]
            assert set(said.scores) == {"dish_top1", "dish_top5"}
        else:
            assert said.scores["exact_match"] == (1.0, 1)
            assert said.scores["answer_top1"] == (float(said.rank == 0), 1)


def _brute_force(bench: Bench, rows: Shared, number: int, kept: Sequence[str]) -> list[str]:
    """All names of an item, best first: every name teacher-forced in every modality, mixed token by token."""
    totals = {}
    for name in bench.lists["name", "dish"].names:
        members, weights = [], []
        for modality in kept:
            row = rows.rows[modality][number]  # type: ignore[index]  # the modality's name
            if row is not None:
                turns = (*row.turns[:-1], {**row.turns[-1], "text": name})
                asked = instruct.rewrite(replace(row, turns=turns, answer=name), bench.backbone)
                ((_, log_probs, tokens),) = instruct.next_token_logprobs(
                    bench.backbone, [asked], features=bench.features
                )
                members.append(log_probs)
                weights.append(WEIGHTS[modality])
        share = torch.tensor(weights) * sum(WEIGHTS.values()) / sum(weights)  # the absent ones' weight goes to the rest
        mixed = mix(torch.stack(members), share)
        totals[name] = float(mixed.gather(1, tokens[:, None]).sum())
    return sorted(totals, key=lambda name: -totals[name])


def test_late_fusion_equals_brute_force(bench: Bench, dishes: Path) -> None:
    """On the validation items, of which one lacks its picture and one its clip."""
    rows = shared(Dataset(dishes), TASKS, "valid", bench.backbone)
    found = answer_fused(
        bench, rows, dict.fromkeys(rows.rows, None), lambda name: active(bench.backbone, name), WEIGHTS, 6
    )
    cases = {"full": ["image", "video", "text"], "absent:text": ["image", "video"], "alone:image": ["image"]}
    for condition, kept in cases.items():
        numbers, answers = found[condition]
        there = [n for n in range(len(rows.items)) if any(rows.rows[m][n] is not None for m in kept)]  # type: ignore[index]  # as above
        assert numbers == there
        for number, said in zip(numbers, answers, strict=True):
            order = _brute_force(bench, rows, number, kept)
            assert said.top == order[:5]
            assert said.rank == order.index(rows.truths[number])
    assert {f"shuffled:{m}" for m in rows.rows} <= set(found)
