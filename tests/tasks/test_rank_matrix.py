"""A ranker's inputs as plain columns: what stands in them, and that nothing is fitted on rows that are measured."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from small_ranks import TAGS

from latefuse.config import Task
from latefuse.data.dataset import Dataset
from latefuse.models.backbone import Backbone
from latefuse.tasks import rank
from latefuse.tasks.rank_matrix import Matrix
from latefuse.training.features import Features


def task(modality: tuple[str, ...] = ("text", "image"), **settings: Any) -> Task:
    return Task.model_validate({"kind": "rank", "modality": modality, "rank": {"bins": 500, **settings}})


def test_columns_hold_numbers_words_and_vectors(dataset: Dataset, backbone: Backbone):
    wanted, features = task(("image",), attributes=["tags", "price"]), Features(backbone, dataset.media)
    train, test = (rank.examples(dataset, wanted, split, backbone) for split in ("train", "test"))
    made = Matrix(train, features)
    found = made(test)
    numbers = test.store.numbers(test.places)
    np.testing.assert_array_equal(found[:, :7], numbers)
    told = {row["id"]: json.loads(row["attributes"])["tags"] for row in dataset.rows("items")}
    of_rows = [told[test.store.columns.items[code]] for code in test.items]
    np.testing.assert_array_equal(
        sorted(found[:, 7:11].sum(0)), sorted(sum(tag in tags for tags in of_rows) for tag in TAGS)
    )
    items, past = (~test.absent[name] for name in ("item picture", "user pictures"))
    size = (found.shape[1] - 7 - 4 - 2 - 1) // 3
    item, user = found[:, 11 : 11 + size], found[:, 12 + size : 12 + 2 * size]
    assert (item[~items] == 0).all()
    np.testing.assert_array_equal(found[:, 11 + size], ~items)
    np.testing.assert_allclose(found[:, -1 - size : -1], item * user, rtol=1e-5, atol=1e-5)
    both = items & past
    cosine = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(item[both], user[both], strict=True)]
    np.testing.assert_allclose(found[both, -1], cosine, rtol=1e-4, atol=1e-5)
    assert (np.abs(found[both, -1]) <= 1.001).all()


def test_ids_alone_are_what_was_counted(dataset: Dataset, backbone: Backbone):
    features = Features(backbone, dataset.media)
    rows = rank.examples(dataset, task(()), "train", backbone)
    np.testing.assert_array_equal(Matrix(rows, features)(rows), rows.store.numbers(rows.places))


def test_nothing_is_fitted_on_rows_that_are_measured(dataset: Dataset, backbone: Backbone):
    wanted, features = task(("image",)), Features(backbone, dataset.media)
    train, test = (rank.examples(dataset, wanted, split, backbone) for split in ("train", "test"))
    made = Matrix(train, features)
    whole = made(test)
    np.testing.assert_allclose(made(test.take([3, 5])), whole[[3, 5]], rtol=1e-5, atol=1e-6)
