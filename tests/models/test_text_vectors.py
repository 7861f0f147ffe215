"""Means of word embeddings, against a loop over the tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from latefuse.models.backbone import Backbone, load
from latefuse.models.text_vectors import RARE, mean_words, rarity

TEXTS = ["stir the rice with mint", "", "the rice the rice", "bake the bread"]


@pytest.fixture(scope="module")
def backbone(backbone_folder: Callable[..., Path]) -> Backbone:
    return load(backbone_folder())


def tokens(backbone: Backbone, text: str) -> list[int]:
    return list(backbone.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_mean_counts_every_word_alike_without_weights(backbone: Backbone):
    table = backbone.model.get_input_embeddings().weight
    made = mean_words(backbone, TEXTS)
    for vector, text in zip(made, TEXTS, strict=True):
        words = [table[token] for token in tokens(backbone, text)]
        expected = torch.stack(words).mean(0) if words else torch.zeros(table.shape[1])
        torch.testing.assert_close(vector, expected.detach())


def test_what_every_text_says_hardly_counts(backbone: Backbone):
    table = backbone.model.get_input_embeddings().weight.detach()
    counts = Counter(token for text in TEXTS for token in tokens(backbone, text))
    total = sum(counts.values())
    weights = rarity(backbone, TEXTS)
    made = mean_words(backbone, TEXTS, weights)
    for vector, text in zip(made, TEXTS, strict=True):
        ids = tokens(backbone, text)
        if ids:
            each = [RARE / (RARE + counts[token] / total) for token in ids]
            expected = sum(w * table[t] for w, t in zip(each, ids, strict=True)) / sum(each)
            torch.testing.assert_close(vector, expected)
    assert weights is not None
    unseen = next(token for token in range(len(weights)) if not counts[token])
    assert weights[unseen] == 1
    assert float(weights.min()) < 0.01


def test_without_texts_all_words_count_alike(backbone: Backbone):
    torch.testing.assert_close(mean_words(backbone, TEXTS, rarity(backbone, [])), mean_words(backbone, TEXTS))
