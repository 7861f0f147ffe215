from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from latefuse.config import Task
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.fusion.scores import mix
from latefuse.prompts import MediaRef
from latefuse.tasks import instruct
from latefuse.training.features import Features

NAMES = ["red", "green", "red rice", "red rice soup", "gold", "pink", "grey-blue", "a", "green tea with a long name"]


@pytest.fixture(scope="module")
def data(small_dataset: Path) -> Dataset:
    return Dataset(small_dataset)


@pytest.fixture
def backbone(fresh_backbone: Any) -> Any:
    return fresh_backbone()


@pytest.fixture
def features(backbone: Any, data: Dataset, tmp_path: Path) -> Features:
    return Features(backbone, data.media, tmp_path / "cache")


def rows_of(data: Dataset, backbone: Any, *modalities: str, split: str = "train") -> list[instruct.Example]:
    return [row for modality in modalities for row in instruct.examples(data, Task(modality=modality), split, backbone)]


def naive_scores(backbone: Any, rows: list[instruct.Example], names: list[str], features: Features) -> torch.Tensor:
    """One row and one name at a time through the whole model: what `score` must equal."""
    splicer = instruct.Splicer.of(backbone)
    scores = torch.zeros(len(rows), len(names))
    for i, row in enumerate(rows):
        for k, name in enumerate(names):
            answer = splicer.answer_ids(name)
            ids = torch.tensor([row.prompt_ids + answer])
            with torch.no_grad():
                hidden = backbone.hidden(ids, torch.ones_like(ids), features.batch(row.media))
            log_probs = torch.log_softmax(backbone.logits(hidden), dim=-1)[0]
            start = len(row.prompt_ids) - 1
            scores[i, k] = sum(log_probs[start + j, token] for j, token in enumerate(answer))
    return scores


def test_labels_hold_the_answers_and_nothing_else(data: Dataset, backbone: Any) -> None:
    row = rows_of(data, backbone, "image")[0]
    learned = [token for token in row.labels if token != -100]
    assert backbone.tokenizer.decode(learned) == " red</s>"
    assert row.labels[: len(row.prompt_ids)] == [-100] * len(row.prompt_ids)
    assert row.input_ids[: len(row.prompt_ids)] == row.prompt_ids
    assert backbone.tokenizer.decode(row.prompt_ids).startswith("<s>USER: <image><image>")


@pytest.mark.parametrize("modalities", [("image",), ("video",), ("text",), ("image", "video", "text")])
def test_answer_only_loss_equals_the_library_loss_over_full_logits(
    data: Dataset, backbone: Any, features: Features, modalities: tuple[str, ...]
) -> None:
    rows = rows_of(data, backbone, *modalities)
    batch = instruct.collate(rows, backbone, features)
    with torch.no_grad():
        total, count = instruct.loss(backbone, batch)
        pixels = Features(backbone, features.locate).batch([ref for row in rows for ref in row.media])
        library = backbone.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
            pixel_values_images=pixels.image if pixels else None,
            pixel_values_videos=pixels.video if pixels else None,
        ).loss
    assert count == int((batch.labels != -100).sum())
    torch.testing.assert_close(total / count, library, rtol=1e-5, atol=1e-6)


def test_nll_of_rows_adds_up_to_the_loss_of_the_batch(data: Dataset, backbone: Any, features: Features) -> None:
    rows = rows_of(data, backbone, "image", "text")
    with torch.no_grad():
        total, count = instruct.loss(backbone, instruct.collate(rows, backbone, features))
    each = instruct.nll(backbone, rows, features=features, batch_size=3)
    assert each.shape == (len(rows),)
    assert sum(row.learned for row in rows) == count
    torch.testing.assert_close(each.sum(), total, rtol=1e-5, atol=1e-4)


def test_score_equals_one_name_at_a_time(data: Dataset, backbone: Any, features: Features) -> None:
    rows = rows_of(data, backbone, "image", "text", "video")[::5]
    fast = instruct.score(backbone, rows, NAMES, features=features, batch_size=2)
    torch.testing.assert_close(fast, naive_scores(backbone, rows, NAMES, features), rtol=1e-4, atol=1e-4)


def test_node_logprobs_sum_to_the_scores_and_mix(data: Dataset, backbone: Any, features: Features) -> None:
    rows = rows_of(data, backbone, "image", "text")[::6]
    tree = instruct.trie(NAMES, backbone)
    seen: list[int] = []
    for numbers, log_probs in instruct.node_logprobs(backbone, rows, tree, features=features, batch_size=2):
        assert log_probs.shape[1] == len(tree.inner)
        alone = mix(torch.stack([log_probs, log_probs]), torch.tensor([0.3, 0.7]))
        wanted = instruct.score(backbone, [rows[k] for k in numbers], NAMES, features=features)
        torch.testing.assert_close(tree.sum(alone), wanted, rtol=1e-4, atol=1e-4)
        seen += numbers
    assert seen == list(range(len(rows)))


def test_next_token_logprobs_sum_to_the_nll(data: Dataset, backbone: Any, features: Features) -> None:
    rows = rows_of(data, backbone, "image", "text")
    wanted = instruct.nll(backbone, rows, features=features)
    for number, log_probs, targets in instruct.next_token_logprobs(backbone, rows, features=features):
        found = -log_probs.gather(1, targets.unsqueeze(1)).sum()
        torch.testing.assert_close(found, wanted[number], rtol=1e-4, atol=1e-4)


def test_predict_is_the_argmax_of_a_full_forward(data: Dataset, backbone: Any, features: Features) -> None:
    rows = rows_of(data, backbone, "image", "video")[::3]
    texts = instruct.predict(backbone, rows, 5, features=features, batch_size=3)
    end_id = instruct.Splicer.of(backbone).end_id
    for row, text in zip(rows, texts, strict=True):
        ids = list(row.prompt_ids)
        for _ in range(5):
            tensor = torch.tensor([ids])
            with torch.no_grad():
                hidden = backbone.hidden(tensor, torch.ones_like(tensor), features.batch(row.media))
            ids.append(int(backbone.logits(hidden[:, -1]).argmax()))
            if ids[-1] == end_id:
                break
        assert text == instruct.decode(backbone, ids[len(row.prompt_ids) :], end_id)


def test_predict_stays_inside_the_allowed_tokens(data: Dataset, backbone: Any, features: Features) -> None:
    rows = rows_of(data, backbone, "image", "text")
    tree = instruct.trie(NAMES, backbone)
    texts = instruct.predict(
        backbone, rows, 40, features=features, batch_size=5, allowed=lambda row, written: tree.allowed(written)
    )
    assert set(texts) <= set(NAMES)


def test_an_absent_medium_is_said_in_words(data: Dataset, backbone: Any, features: Features) -> None:
    row = rows_of(data, backbone, "image")[0]
    gone = replace(row, media=(MediaRef("image", ""),))
    batch = instruct.collate([gone, row], backbone, features)
    text = backbone.tokenizer.decode(batch.input_ids[0][batch.attention_mask[0].bool()])
    assert text == "<s>USER: no picture\nWhich colour? ASSISTANT: red</s>"
    assert batch.media is not None
    assert batch.media.image is not None
    assert len(batch.media.image) == 1
    assert gone.group == "text"
    assert instruct.nll(backbone, [gone], features=features).isfinite().all()


def test_rows_that_do_not_fit_are_counted_and_too_many_are_an_error(data: Dataset, backbone: Any) -> None:
    lengths = sorted(len(row.input_ids) for row in rows_of(data, backbone, "text"))
    task = Task.model_validate({"modality": "text", "train": {"max_tokens": lengths[-1] - 1}})
    chosen = instruct.select(data, task, "train", backbone)
    assert chosen.left_out == {"too-long": lengths.count(lengths[-1])}
    assert len(chosen.examples) == len(lengths) - lengths.count(lengths[-1])
    with pytest.raises(DataError, match=r"8 of 8 rows .* raise train.max_tokens \(now 8\)"):
        instruct.select(data, Task.model_validate({"modality": "text", "train": {"max_tokens": 8}}), "train", backbone)
    with pytest.raises(DataError, match="nonsense"):
        instruct.select(data, Task(modality="text", where={"topic": "nonsense"}), "train", backbone)
