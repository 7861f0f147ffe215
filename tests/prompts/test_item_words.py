"""The budget of an item's words against brute force, and letters that no cut may break."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from latefuse.config_vectors import TextBudget
from latefuse.prompts.item_words import Words, fit, fitted, one_line, within, without_hashtags

ORDER = ("content", "topic", "title")
LETTERS = ["👩‍👩‍👧‍👦", "👍🏽", "🇫🇷", "e\u0301", "שָׁ", "한", "饭", "a", "B", " ", "हि", "½"]


@given(st.lists(st.sampled_from(LETTERS), max_size=60).map("".join), st.integers(0, 80))
def test_a_cut_is_the_longest_between_letters_or_the_end_of_a_word_near_it(text: str, limit: int) -> None:
    """Held against the letters of another library, one by one."""
    letters = regex.findall(r"\X", text)
    longest = max(
        ("".join(letters[:n]) for n in range(len(letters) + 1)), key=lambda t: len(t) if len(t) <= limit else -1
    )
    shown = fit(text, limit, len)
    assert text.startswith(shown)
    assert longest.startswith(shown)
    if shown not in (text, longest.rstrip()):
        assert text[len(shown)] == " "
        assert " " not in longest[len(shown) :].strip()
        assert 2 * (len(longest) - len(longest[len(shown) :].lstrip())) >= len(longest)


def test_words_are_kept_whole_where_one_ends_near() -> None:
    assert fit("red rice with milk", 11, len) == "red rice"
    assert fit("red rice with milk", 8, len) == "red rice"
    assert fit("red ricewithmilk", 12, len) == "red ricewith"
    assert fit("红烧牛肉面配米饭", 5, len) == "红烧牛肉面"
    assert fit("שלום עולם טוב", 10, len) == "שלום עולם"
    assert fit("👩‍👩‍👧‍👦👍🏽", 8, len) == "👩‍👩‍👧‍👦"
    assert fit("👩‍👩‍👧‍👦", 6, len) == ""


def test_hashtags_leave_the_body_behind_the_items_own_topics() -> None:
    found = within("Rice", "Good #food for #Dish\nlovers #日本料理 #हिन्दी", ("dish", "#own"), TextBudget())
    assert found.topic == ("dish", "own", "food", "日本料理", "हिन्दी")
    assert found.content == "Good for. lovers"
    assert found.cut_characters == 0
    body, tags = without_hashtags("C# &#39; #1 a.b/page#part ##x #_ #top10, #a#b")
    assert (body, tags) == ("C# &#39; #1 a.b/page#part ##x #_  ,  #b", ["top10", "a"])
    kept = within("", "no #topics here", (), TextBudget(topics=0))
    assert (kept.content, kept.topic) == ("no #topics here", ())


def test_line_breaks_become_full_stops() -> None:
    assert one_line(" a  b\r\n\n c!\nd\u2028e ") == "a b. c! d. e"
    assert one_line("\n \t") == ""
    assert one_line("קפה\nשחור") == "קפה. שחור"


def test_halves_of_a_character_are_joined_or_shown_as_unreadable() -> None:
    assert one_line("\ud83d\ude00 \ud83d é") == "😀 \ufffd é"


def test_limits_in_characters_and_what_they_leave_out() -> None:
    budget = TextBudget(title=4, content=3, topic=2, topics=2)
    found = within("abcdef", "xyz123", ("aaa", "bb", "cc"), budget)
    assert found == Words("abcd", ("aa", "bb"), "xyz", cut_characters=2 + 3 + 1 + 2)
    one_letter = "e" + "\u0301" * 200
    assert within(one_letter, "", (), budget).title == one_letter[:4]


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        (20, Words("one two", ("aa", "bb"), "some text", cut=0)),
        (19, Words("one two", ("aa", "bb"), "some", cut=5)),
        (11, Words("one two", ("aa", "bb"), "", cut=9)),
        (10, Words("one two", ("aa",), "", cut=11)),
        (7, Words("one two", (), "", cut=13)),
        (6, Words("one", (), "", cut=17)),
    ],
)
def test_content_gives_way_first_then_topics_then_the_title(tokens: int, shown: Words) -> None:
    words = Words("one two", ("aa", "bb"), "some text")
    found = fitted(words, tokens, len, ORDER, "")
    assert found.cut == sum(map(len, (words.title, *words.topic, words.content))) - sum(
        map(len, (found.title, *found.topic, found.content))
    )
    assert found == shown


@given(st.text(max_size=60), st.lists(st.text(max_size=8), max_size=4), st.text(max_size=60), st.integers(1, 70))
def test_words_never_take_more_tokens_than_they_may(title: str, topics: list[str], text: str, tokens: int) -> None:
    """For a size that is not one a letter: the bytes of UTF-8."""

    def size(words: str) -> int:
        return len(words.encode())

    words = within(title, text, topics, TextBudget())
    found = fitted(words, tokens, size, ORDER, ", ")
    total = size(found.title) + size(", ".join(found.topic)) + size(found.content)
    assert total <= tokens
    assert found.cut == size(words.title) + size(", ".join(words.topic)) + size(words.content) - total
    assert words.topic[: len(found.topic)] == found.topic
