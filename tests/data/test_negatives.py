"""Wrong captions of pictures: wrong by what the other captions say, of the same split, as many as right ones."""

from __future__ import annotations

import random
from collections import Counter

from latefuse.data.negatives import SWAPS, Captioned, Claims, Judged, swap, telling

PICTURES = [
    Captioned(
        f"{split}-{n}", [f"a {colour} {thing} on the {place}", f"the {thing} is near a {place}"], split, f"{n}.png"
    )
    for split in ("train", "test")
    for n, (colour, thing, place) in enumerate(
        [("red", "dog", "beach"), ("blue", "boat", "water"), ("green", "kite", "field"), ("red", "dog", "street")] * 3
    )
]


def test_right_and_wrong_are_balanced_and_stay_in_their_split() -> None:
    found = list(Claims(PICTURES, Judged()))
    assert Counter(not one.negative for one in found) == {True: len(found) // 2, False: len(found) // 2}
    own = {picture.key: picture for picture in PICTURES}
    texts = {split: {text for p in PICTURES if p.split == split for text in p.captions} for split in ("train", "test")}
    for one in found:
        picture = own[one.key]
        if not one.negative:
            assert one.text in picture.captions
        elif not one.negative.startswith("attribute"):
            assert one.text in texts[picture.split]
            mine = telling(" ".join(picture.captions))
            assert len(telling(one.text) & mine) < len(telling(one.text)) / 2
    assert {one.negative.partition(":")[0] for one in found} == {"", "random", "nearest", "attribute"}
    assert list(Claims(PICTURES, Judged())) == found


def test_a_swapped_word_says_what_no_caption_says() -> None:
    captions = ["Two dogs run on the red sand", "a brown dog and a black dog"]
    kinds = set()
    for seed in range(60):
        text, what = swap(captions[0], captions, random.Random(seed)) or ("", "")
        kinds.add(what)
        changed = set(text.split()) ^ set(captions[0].split())
        words = {word for group in SWAPS[what] for word in group}
        assert {word.casefold() for word in changed} <= words
        assert not {"brown", "black"} & set(text.split())
    assert kinds == {"colour", "count", "object", "relation"}
    assert swap("nothing here", ["nothing here"], random.Random(0)) is None


def test_a_caption_that_may_well_fit_is_not_taken() -> None:
    alike = [
        Captioned(str(n), ["a red dog on the beach", "a dog runs on a beach"], "train", f"{n}.png") for n in range(4)
    ]
    assert not list(Claims(alike, Judged(kinds=("random",))))
    found = [one for one in Claims(alike, Judged(kinds=("attribute",))) if one.negative]
    assert found
    assert all(one.negative.startswith("attribute:") for one in found)


def test_the_nearest_wrong_caption_is_of_a_picture_that_is_alike() -> None:
    captions = {
        "a": "a brown dog runs on a sandy beach", "b": "a brown dog chases birds by a wide river",
        "c": "an old man reads a newspaper indoors", "d": "a woman reads a book on a bench indoors",
    }  # fmt: skip
    pictures = [Captioned(key, [text], "train", f"{key}.png") for key, text in captions.items()]
    found = {one.key: one.text for one in Claims(pictures, Judged(kinds=("nearest",))) if one.negative == "nearest"}
    assert (found["a"], found["b"], found["c"]) == (captions["b"], captions["a"], captions["d"])


def test_a_wrong_text_of_the_same_class_is_of_that_class_and_split_where_there_is_one() -> None:
    texts = {
        "pear": ("fruit", "a soft pear"),
        "plum": ("fruit", "small purple plums"),
        "leek": ("", "green leek stalk"),
    }
    pictures = [
        Captioned(f"{split}-{name}-{n}", [text], split, f"{n}.png", group)
        for split in ("train", "test")
        for name, (group, text) in texts.items()
        for n in range(4)
    ]
    found = list(Claims(pictures, Judged(kinds=("same-class",))))
    wrong = {"pear": texts["plum"][1], "plum": texts["pear"][1]}
    for one in found:
        name = one.key.split("-")[1]
        if one.negative == "same-class":
            assert one.text == wrong[name]
        elif one.negative:
            assert name == "leek"
            assert one.text in wrong.values()
    # All but the leeks exchange within their class; those have nobody left to exchange with but draw all the same.
    assert Counter(one.negative for one in found) == {"": 24, "same-class": 16, "random": 8}


def test_words_alone_do_not_tell_which_description_is_right() -> None:
    """Classes of very different sizes: each text is wrong as often as it is right."""
    sizes = {
        ("apple", "red and round"): 30,
        ("apple", "green and sour"): 7,
        ("", "a long stalk"): 21,
        ("", "orange root"): 9,
    }
    pictures = [
        Captioned(f"{text}-{n}", [text], "train", "", group)
        for (group, text), many in sizes.items()
        for n in range(many)
    ]
    found = list(Claims(pictures, Judged(kinds=("same-class", "random"))))
    told = Counter((one.text, not one.negative) for one in found)
    for _, text in sizes:
        assert told[text, True] == told[text, False] > 0
    assert {one.negative for one in found} == {"", "same-class", "random"}


def test_rows_stand_for_their_claims() -> None:
    claims = Claims(PICTURES, Judged())
    for row, claim in zip(claims.rows("fits", "here"), claims, strict=True):
        picture = next(one for one in PICTURES if one.key == claim.key)
        assert (row["task"], row["source"], row["instruction"]) == ("fits", "here", Judged().instruction)
        assert (row["item"], row["text"], row["negative"]) == (claim.key, claim.text, claim.negative)
        assert (row["image"], row["split_item"]) == (picture.path, picture.split)
        assert row["label"] == (not claim.negative)
    assert len({row["id"] for row in claims.rows("fits", "here")}) == len(list(claims))
