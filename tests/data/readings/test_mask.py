"""What is masked, what is not, and what can't be."""

from __future__ import annotations

import pytest

from latefuse.data.readings.mask import Mask

USERS = ("Anna Schmidt", "foodie_82", "1042", "anna.s", "u7", "IT", "Würzburg Willi", "the PIZZA fan")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to anna.b+x@mail.example.co.uk!", "Write to [email]!"),
        ("anna (at) mail (dot) com, jörg@bücher.de.", "[email], [email]."),
        ("Call +49 (0)30 123-45 67 or 555-123-4567, 0170/1234567.", "Call [phone] or [phone], [phone]."),
        ("tel:(030) 12345678; 555.123.4567", "tel:[phone]; [phone]"),
        ("٠١٢٣٤٥٦٧٨٩", "[phone]"),
        ("my number is 5551234", "my number is [phone]"),
        ("see @anna_82 there", "see [name] there"),
        ("I'm Bob Miller and Bob likes it, bob too.", "I'm [name] and [name] likes it, bob too."),
        ("i’m Zoë. My name is zoe", "i’m [name]. My name is [name]"),
        ("Mr. O'Neil, Dr Müller and Prof. van der Berg", "Mr. [name], Dr [name] and Prof. [name]"),
        ("Great place. Regards, Tom", "Great place. Regards, [name]"),
        ("Ich heiße Jörg, Frau Krüger kam.", "Ich heiße [name], Frau [name] kam."),
        ("anna schmidt was here, Anna too; ANNA  SCHMIDT", "[name] was here, [name] too; [name]"),
        ("foodie_82, anna.s and Willi of Würzburg", "[name], [name] and [name] of [name]"),
        ("the pizza fan says", "[name] says"),
    ],
)
def test_masked(text: str, masked: str) -> None:
    assert Mask(USERS)(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "Cost 1,000,000 or $12.99, 100%",
        "opened 2021-05-03, closed 3.5.2022, 1999-2003, 2019/2020",
        "rated 5/5 at 10:30 in room 1204; users 1042 and u7 say IT is fine",
        "I'm happy, this is good. annabel and a fan of pizza",
        "a @ b, 5 @ 3 dollars",
        "",
    ],
)
def test_left_as_it_is(text: str) -> None:
    assert Mask(USERS)(text) == text


@pytest.mark.parametrize("text", ["Thomas was rude", "five five five one two three four"])
def test_what_it_says_it_can_not_know(text: str) -> None:
    assert Mask(USERS)(text) == text


def test_names_of_the_recipe_and_masking_twice() -> None:
    mask = Mask(["Chez Panisse", "Thomas"])
    told = mask("Thomas of chez panisse, thomas@x.de, I'm Eve")
    assert told == "[name] of [name], [email], I'm [name]"
    assert mask(told) == told


def test_many_users_cost_no_more_than_a_look_up() -> None:
    import time

    mask = Mask(f"user-name-{number}" for number in range(100_000))
    began = time.perf_counter()
    assert mask("word " * 2_000 + "user-name-77").endswith("[name]")
    assert time.perf_counter() - began < 2
