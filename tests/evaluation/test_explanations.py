"""Explanations against sacrebleu, rouge-score and counting, and against boilerplate."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from latefuse.evaluation.explanations import METRICS, boilerplate, copied, measures, words
from latefuse.evaluation.intervals import Bootstrap
from latefuse.evaluation.redraw import Redraw
from latefuse.evaluation.sums import stacked

TRUE = [
    "The strap is soft and it does not slip off the shoulder.",
    "Great battery life, it lasts two days!",
    "I love the colour of this bag and the zipper is strong",
    "the screen is bright and easy to read in the sun",
    "It fits perfectly and the fabric is soft.",
]
SAID = [
    "The strap is soft and does not slip.",
    "the battery life is great and it lasts two days",
    "I love the colour of this bag",
    "the screen is bright and easy to read in the sun",
    "",
]
GOLDEN = {
    "rouge_l": 0.6485,
    "rouge_1": 0.6721,
    "rouge_2": 0.5812,
    "bleu_4": 0.4673,
    "feature_hit": 0.75,
    "feature_coverage": 0.75,
    "distinct_1": 0.7778,
    "distinct_2": 1.0,
    "unique_sentences": 1.0,
}
FEATURES = ["strap", "battery life", "zipper", "screen", ""]


def _values(written: list[str]) -> dict[str, float]:
    return {name: found.value for name, found in measures(written, TRUE, FEATURES).items()}


def test_golden_numbers() -> None:
    """With sacrebleu 2.6.0 and rouge-score 0.1.2."""
    found = _values(SAID)
    assert list(found) == list(METRICS)
    assert {name: round(value, 4) for name, value in found.items()} == GOLDEN


def test_words_are_words_and_not_letters() -> None:
    """VIP5's published script fed letters to BLEU, which tells nothing."""
    assert words("Don’t  buy_it: 5-star Überraschung!") == ["don't", "buy", "it", "5", "star", "überraschung"]
    letters = BLEU(lowercase=True).corpus_score([" ".join(one) for one in SAID], [[" ".join(one) for one in TRUE]])
    assert letters.score / 100 > _values(SAID)["bleu_4"] + 0.05


def test_bleu_is_that_of_the_whole_text_on_every_draw() -> None:
    rng = np.random.default_rng(0)
    vocabulary = ["the", "strap", "is", "soft", "and", "good", "but", "not", "very", "strong", "I", "love", "it"]
    true = [" ".join(rng.choice(vocabulary, rng.integers(1, 14))) for _ in range(60)]
    said = [" ".join(one.split()[: rng.integers(0, 9)]) + rng.choice([" the", ""]) for one in true]
    found = measures(said, true, [""] * 60)["bleu_4"]
    redraw = Redraw(np.arange(60) // 2, Bootstrap(draws=30))
    drawn = stacked([found], redraw, np.arange(60))[0]
    for draw in range(31):
        rows = np.repeat(np.arange(60), redraw.times[draw][redraw.group])
        told = BLEU(lowercase=True).corpus_score([said[row] for row in rows], [[true[row] for row in rows]])
        assert drawn[draw] == pytest.approx(told.score / 100)
    assert len(set(drawn.round(9))) > 20


@pytest.mark.parametrize(
    ("said", "true"),
    [("the cat", "the cat"), ("a b c x e f", "a b c d e f"), ("", "a b"), ("x", "a b"), ("a b c d e", "a b c d e f g")],
)
def test_bleu_of_little_text_is_smoothed_as_the_library_does(said: str, true: str) -> None:
    told = BLEU(lowercase=True).corpus_score([said], [[true]]).score / 100
    assert measures([said], [true], [""])["bleu_4"].value == pytest.approx(told)


def test_rouge_is_that_of_the_library_row_by_row() -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    found = measures(SAID, TRUE, FEATURES)
    for name, kind in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        told = [scorer.score(truth, said)[kind].fmeasure for said, truth in zip(SAID, TRUE, strict=True)]
        assert found[name].columns[:, 0] == pytest.approx(told)


def test_other_scripts_count() -> None:
    found = measures(["мягкий ремень"], ["мягкий и прочный ремень"], ["ремень"])
    assert found["rouge_1"].value == pytest.approx(2 / 3)
    assert found["feature_hit"].value == 1


def test_features_by_hand() -> None:
    found = measures(SAID, TRUE, FEATURES)
    assert found["feature_hit"].columns.tolist() == [[1, 1], [1, 1], [0, 1], [1, 1], [0, 0]]
    assert found["feature_coverage"].value == pytest.approx(3 / 4)  # nobody names the zipper
    other = measures([*SAID[:4], "a zipper, the strap"], TRUE, FEATURES)
    assert other["feature_coverage"].value == pytest.approx(1)  # though not where it was asked for
    assert other["feature_hit"].value == pytest.approx(3 / 4)
    assert np.isnan(measures(["a"], ["a"], [""])["feature_hit"].value)
    often = measures(["a strap"] * 3 + ["b"] * 2, ["x"] * 5, ["strap", "strap", "hook", "hook", "lid"])
    assert often["feature_coverage"].value == pytest.approx(1 / 3)
    redraw = Redraw(np.arange(5), Bootstrap(draws=200))
    assert 0 <= stacked([often["feature_coverage"]], redraw, np.arange(5))[0].min() < 1 / 3
    assert 1 / 3 < stacked([often["feature_coverage"]], redraw, np.arange(5))[0].max() <= 1
    near = measures(["the battery has a life"], ["a"], ["battery life"])
    assert near["feature_hit"].value == 0


def test_distinct_by_counting() -> None:
    said = ["a b a b", "A b, a b!", "c", ""]
    found = measures(said, ["x"] * 4, [""] * 4)
    assert found["distinct_1"].value == pytest.approx(3 / 9)
    assert found["distinct_2"].value == pytest.approx(2 / 6)
    assert found["unique_sentences"].value == pytest.approx(3 / 4)


def test_boilerplate_does_not_win() -> None:
    """One sentence for everybody has a ROUGE, and is found out by all that looks for it."""
    rng = np.random.default_rng(0)
    features = [f"part{number}" for number in range(30)]
    asked = [features[number] for number in rng.integers(0, 30, 200)]
    true = [f"the {feature} is soft and I love it {rng.choice(['a lot', 'so much'])}" for feature in asked]
    dull = boilerplate(true, 200)
    assert len(set(dull)) == 1
    found = {name: {key: one.value for key, one in measures(said, true, asked).items()}
             for name, said in (("dull", dull), ("true", true))}  # fmt: skip
    assert found["dull"]["rouge_l"] > 0.7
    for metric in ("feature_hit", "feature_coverage", "unique_sentences", "distinct_1"):
        assert found["dull"][metric] < 0.1 * found["true"][metric] or metric == "distinct_1"
        assert found["dull"][metric] < found["true"][metric]


def test_copies_are_of_the_same_item() -> None:
    train, of = ["a one", "a two", "b one"], ["a", "a", "b"]
    found = copied(train, of, ["a", "b", "c", "a"] * 20)
    assert set(found[0::4]) == {"a one", "a two"}
    assert set(found[1::4]) == {"b one"}
    assert set(found[2::4]) == set(train)
    assert found == copied(train, of, ["a", "b", "c", "a"] * 20)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1: its true explanation has no words"):
        measures(["a", "b"], ["a", " ! "], ["", ""])
    with pytest.raises(ValueError, match="2 explanations, 1 true ones"):
        measures(["a", "b"], ["a"], ["", ""])
