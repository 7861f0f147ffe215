"""Knock-outs change what they name and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latefuse.data.dataset import Dataset
from latefuse.evaluation import neglect
from latefuse.evaluation.grammar import learned_grammar
from latefuse.prompts import Item, MediaRef
from latefuse.tasks import instruct
from latefuse.tasks.instruct import Example


def _row(number: int, item: str, paths: list[str], words: str = "what is it?", topic: str = "dish") -> Example:
    slots = "<image>\n" * len(paths)
    turns = ({"role": "user", "text": f"{slots}{words}"}, {"role": "assistant", "text": f"name {number}"})
    media = tuple(MediaRef("image", path) for path in paths)
    return Example(
        f"r{number}", item, "image" if paths else "text", topic, [1], [1], [], f"name {number}",
        {"name": f"name {number}"}, media, turns, 0, tuple(bool(p) for p in paths),
    )  # fmt: skip


ROWS = [_row(k, f"i{k // 2}", [f"media/aa/{k}.png"]) for k in range(10)]


@pytest.mark.parametrize("seed", range(5))
def test_shuffling_never_gives_an_item_its_own_medium(seed: int) -> None:
    changed = neglect.shuffled(ROWS, "image", seed)
    own = {row.item: {ref.path for other in ROWS if other.item == row.item for ref in other.media} for row in ROWS}
    assert all(not {ref.path for ref in row.media} & own[row.item] for row in changed)
    assert sorted(ref.path for row in changed for ref in row.media) == sorted(r.path for row in ROWS for r in row.media)
    assert [(row.row, row.truth, row.answer, row.turns) for row in changed] == [
        (row.row, row.truth, row.answer, row.turns) for row in ROWS
    ]


def test_shuffling_is_drawn_by_seed() -> None:
    orders = {tuple(row.media[0].path for row in neglect.shuffled(ROWS, "image", seed)) for seed in range(6)}
    assert len(orders) > 1
    assert neglect.shuffled(ROWS, "image", 3) == neglect.shuffled(ROWS, "image", 3)


def test_one_item_has_nothing_to_shuffle_with() -> None:
    alone = [_row(0, "i", ["a"]), _row(1, "i", ["b"])]
    assert not neglect.can_shuffle(alone, "image")
    with pytest.raises(ValueError, match="nothing to shuffle"):
        neglect.shuffled(alone, "image", 0)


def test_rows_swap_only_with_rows_of_as_many_media_and_the_same_topic() -> None:
    rows = [_row(k, f"i{k}", ["a"] * (1 + k % 2), topic=f"t{k % 2}") for k in range(6)]
    changed = neglect.shuffled(rows, "image", 0)
    assert [len(row.media) for row in changed] == [len(row.media) for row in rows]


def test_words_are_swapped_and_slots_stay() -> None:
    rows = [_row(k, f"i{k}", ["media/x.png"], words=f"card {k}") for k in range(4)]
    changed = neglect.shuffled(rows, "text", 0)
    assert all(row.turns[0]["text"].startswith("<image>\ncard ") for row in changed)
    assert all(new.turns[0] != old.turns[0] for new, old in zip(changed, rows, strict=True))
    assert sorted(row.turns[0]["text"] for row in changed) == sorted(row.turns[0]["text"] for row in rows)
    assert [row.media for row in changed] == [row.media for row in rows]


def test_absent_constant_and_noise() -> None:
    assert {ref.path for row in neglect.absent(ROWS, "image") for ref in row.media} == {""}
    assert {ref.path for row in neglect.constant(ROWS, "image") for ref in row.media} == {"constant:128"}
    noisy = [row.media[0].path for row in neglect.noise(ROWS, "image", 1)]
    assert len(set(noisy)) == len(ROWS)
    assert all(path.startswith("noise:") for path in noisy)
    assert noisy == [row.media[0].path for row in neglect.noise(ROWS, "image", 1)]


def test_words_without_words() -> None:
    rows = [_row(k, f"i{k}", [], words=f"card {k} milk") for k in range(4)]
    assert {row.turns[0]["text"] for row in neglect.absent(rows, "text")} == {"no text"}
    assert {row.turns[0]["text"] for row in neglect.constant(rows, "text")} == {"card 0 milk"}
    known = {word for row in rows for word in row.turns[0]["text"].split()}
    for row in neglect.noise(rows, "text", 0):
        words = row.turns[0]["text"].split()
        assert len(words) == 3
        assert set(words) <= known


def test_a_medium_that_was_absent_stays_absent() -> None:
    rows = [_row(0, "a", [""]), _row(1, "b", ["media/b.png"]), _row(2, "c", ["media/c.png"])]
    for kind in neglect.KNOCK_OUTS.values():
        assert kind(rows, "image", 0)[0].media[0].path == ""


def test_only_what_differs_can_be_knocked_out() -> None:
    assert neglect.modalities_of(ROWS) == ["image"]
    assert neglect.modalities_of([_row(k, f"i{k}", [f"{k}.png"], words=f"card {k}") for k in range(4)]) == [
        "image",
        "text",
    ]


def test_knocked_out_rows_can_be_asked(small_dataset: Path, fresh_backbone: Any, tmp_path: Path) -> None:
    """Every knock-out makes a prompt that the backbone takes; an absent picture is told in words, without a slot."""
    from latefuse.config import Task
    from latefuse.training.features import Features

    data, backbone = Dataset(small_dataset), fresh_backbone()
    features = Features(backbone, data.media, tmp_path)
    rows = instruct.examples(data, Task(modality="image"), "test", backbone)
    slot = backbone.token_id("image")
    full = instruct.nll(backbone, rows, features=features)
    for name, kind in neglect.KNOCK_OUTS.items():
        changed = kind(rows, "image", 0)
        found = instruct.nll(backbone, changed, features=features)
        assert found.isfinite().all()
        assert not (found == full).all()
        if name == "absent":
            batch = instruct.collate(changed, backbone, features)
            assert batch.media is None
            assert slot not in batch.input_ids


A_PICTURE, NO_PICTURE, CLIP = MediaRef("image", "a.png"), MediaRef("image", ""), MediaRef("video", "v.mp4")


def _items(count: int = 9) -> list[Item]:
    """Every third has no picture, every fourth no words; others have one picture or two, and some a clip before it."""
    items = []
    for k in range(count):
        pictures = [MediaRef("image", f"{k}-{n}.png") for n in range(1 + k % 2)] if k % 3 else [NO_PICTURE] * (k % 2)
        clip = [MediaRef("video", f"{k}.mp4")] if k % 5 == 0 else []
        words = (f"title {k}", f"some text {k}", (f"topic{k}", "dish")) if k % 4 else ("", " ", ())
        items.append(Item(f"i{k}", *words, media=(*clip, *pictures)))
    return items


def _paths(item: Item, modality: str) -> list[str]:
    return [ref.path for ref in item.media if ref.modality == modality and ref.path]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("modality", ["image", "text"])
def test_items_swap_all_they_have_of_a_modality_and_nothing_else(modality: str, seed: int) -> None:
    items = _items()
    changed = neglect.shuffled(items, modality, seed)

    def own(item: Item) -> tuple[str, ...]:
        return tuple(_paths(item, "image")) if modality == "image" else (item.title, item.text, *item.topics)

    having = [n for n, item in enumerate(items) if any(part.strip() for part in own(item))]
    assert 2 < len(having) < len(items)
    assert all(own(changed[n]) != own(items[n]) for n in having)
    assert sorted(own(changed[n]) for n in having) == sorted(own(items[n]) for n in having)
    assert all(changed[n] == items[n] for n in range(len(items)) if n not in having)
    for old, new in zip(items, changed, strict=True):
        assert new.id == old.id
        assert _paths(new, "video") == _paths(old, "video")
        if modality == "image":
            assert (new.title, new.text, new.topics) == (old.title, old.text, old.topics)
        else:
            assert new.media == old.media
    assert changed == neglect.shuffled(items, modality, seed)
    by_name = {item.id: item for item in changed}
    again = neglect.shuffled(items[::-1], modality, seed)
    assert {item.id: item for item in again} == by_name, "the order of the rows decides nothing"


def test_an_item_keeps_its_place_for_pictures() -> None:
    items = [Item("a", media=(A_PICTURE, A_PICTURE, CLIP)), Item("b", media=(CLIP, MediaRef("image", "b.png")))]
    one, two = neglect.shuffled(items, "image", 0)
    assert one.media == (MediaRef("image", "b.png"), CLIP)
    assert two.media == (CLIP, A_PICTURE, A_PICTURE)


def test_one_item_with_a_picture_has_nothing_to_shuffle_with() -> None:
    items = [Item("a", "rice", media=(A_PICTURE,)), Item("b", "soup", media=(NO_PICTURE,)), Item("c")]
    assert not neglect.can_shuffle(items, "image")
    assert neglect.can_shuffle(items, "text")
    assert not neglect.can_shuffle(items, "video")
    assert neglect.shuffled(items, "video", 0) == items
    with pytest.raises(ValueError, match="items with image: only the item 'a' has such rows"):
        neglect.shuffled(items, "image", 0)


def test_pictures_of_items_are_absent_grey_or_noise() -> None:
    items = _items()
    for kind, wanted in (("absent", ""), ("constant", "constant:128")):
        for old, new in zip(items, neglect.KNOCK_OUTS[kind](items, "image", 0), strict=True):
            pictures = [ref.path for ref in new.media if ref.modality == "image"]
            assert pictures == [wanted] * len(_paths(old, "image")) or new == old
            assert not _paths(old, "image") or new != old
            assert _paths(new, "video") == _paths(old, "video")
    noisy = neglect.noise(items, "image", 1)
    drawn = [path for item in noisy for path in _paths(item, "image")]
    assert all(path.startswith("noise:") for path in drawn)
    assert len(set(drawn)) == len(drawn) == sum(len(_paths(item, "image")) for item in items)
    assert noisy == neglect.noise(items, "image", 1)
    assert noisy != neglect.noise(items, "image", 2)


def test_words_of_items_are_absent_the_same_or_random() -> None:
    items = _items()
    worded = [n for n, item in enumerate(items) if item.title]
    assert {(i.title, i.text, i.topics) for n, i in enumerate(neglect.absent(items, "text")) if n in worded} == {
        ("", "", ())
    }
    same = neglect.constant(items[::-1], "text")
    assert {(i.title, i.text, i.topics) for i in same if i.title} == {("title 1", "some text 1", ("topic1", "dish"))}
    known = {word for item in items for word in (*item.title.split(), *item.text.split(), *item.topics)}
    mixed = neglect.noise(items, "text", 0)
    assert mixed == neglect.noise(items, "text", 0)
    for number, (old, new) in enumerate(zip(items, mixed, strict=True)):
        if number not in worded:
            assert new == old
            continue
        drawn = [*new.title.split(), *new.text.split(), *new.topics]
        assert set(drawn) <= known
        assert (len(new.title.split()), len(new.text.split()), len(new.topics)) == (2, 3, 2)
        assert new.media == old.media
        assert new != old
    title_only = [Item("a", "red rice"), Item("b", "hot soup")]
    assert all(item.text == "" and item.topics == () for item in neglect.noise(title_only, "text", 0))


def test_only_one_modality_is_left() -> None:
    full = Item("a", "rice", "text", ("dish",), (CLIP, A_PICTURE))
    assert neglect.only([full], "image") == [Item("a", media=(MediaRef("video", ""), A_PICTURE))]
    assert neglect.only([full], "text") == [
        Item("a", "rice", "text", ("dish",), (MediaRef("video", ""), MediaRef("image", "")))
    ]
    row = neglect.only([_row(0, "i", ["a.png"], words="card")], "text")[0]
    assert (row.media[0].path, row.turns[0]["text"]) == ("", "<image>\ncard")
    row = neglect.only([_row(0, "i", ["a.png"], words="card")], "image")[0]
    assert (row.media[0].path, row.turns[0]["text"]) == ("a.png", "<image>\nno text")


def test_what_items_have_can_be_knocked_out() -> None:
    assert neglect.modalities_of(_items()) == ["image", "video", "text"]
    assert neglect.modalities_of([Item("a", "x", media=(NO_PICTURE,)), Item("b", "x")]) == []
    with pytest.raises(TypeError, match="rows of type str have no view"):
        neglect.modalities_of(["a"])


def test_grammar_allows_what_was_seen_and_always_ends() -> None:
    answers = [[5, 6, 7, 9], [5, 6, 8, 9], [5, 7, 9]]
    allowed = learned_grammar(answers)
    assert allowed(ROWS[0], []) == [5]
    assert allowed(ROWS[0], [5]) == [6, 7]
    assert allowed(ROWS[0], [5, 6]) == [7, 8]
    assert allowed(ROWS[0], [6, 8]) == [9]
    assert allowed(ROWS[0], [8, 8]) == []


def test_no_answers_no_grammar() -> None:
    with pytest.raises(ValueError, match="no training answers"):
        learned_grammar([])
