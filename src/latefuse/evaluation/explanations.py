"""What written explanations are worth: likeness to the true one, whether they name what it is about, and boilerplate.

Likeness alone rewards one smooth sentence for everybody. So beside BLEU and ROUGE stand whether the row's feature word
is named, how many of all features ever are, and how few sentences and words say it all (Li, Zhang and Chen 2020,
arXiv 2105.11601: FMR, FCR, USR; distinct-n: Li et al. 2016, arXiv 1510.03055).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np

from latefuse.evaluation.calibration import Floats
from latefuse.evaluation.sums import Sums, mean, share

ORDER = 4
METRICS = ("rouge_l", "rouge_1", "rouge_2", "bleu_4", "feature_hit", "feature_coverage", "distinct_1", "distinct_2",
           "unique_sentences")  # fmt: skip
"""The headline first."""
AGAINST_BOILERPLATE = METRICS[4:]
"""Those that a true explanation need not have the most of."""
_LETTERS = re.compile(r"[^\W_]+")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def measures(written: Sequence[str], true: Sequence[str], features: Sequence[str]) -> dict[str, Sums]:
    """The METRICS of n explanations, all from 0 to 1. features: of each row the words it is about, "" for none.

    Raises ValueError for columns of different lengths, or a true explanation without words.
    """
    if not len(written) == len(true) == len(features):
        raise ValueError(f"{len(written)} explanations, {len(true)} true ones, {len(features)} features")
    if empty := [row for row, text in enumerate(true) if not words(text)]:
        raise ValueError(f"row {empty[0]}: its true explanation has no words; leave such rows out")
    found = {name: mean(column) for name, column in _rouge(written, true).items()}
    found |= {"bleu_4": bleu(written, true), **about(written, features), **distinct(written)}
    return {name: found[name] for name in METRICS}


def words(text: str) -> list[str]:
    """Letters and digits of any script, in one case: 'Don’t' is one word."""
    return _WORD.findall(text.casefold().replace("’", "'"))


def bleu(written: Sequence[str], true: Sequence[str]) -> Sums:
    """BLEU-4 of the whole text on words (Papineni et al. 2002), as sacrebleu has it: tokens 13a, lower case,
    exponential smoothing; redrawn from its counts, which add up."""
    from sacrebleu.metrics import BLEU

    # Counts are those of the corpus score; effective order changes only the sentence's own score, unread here.
    scorer = BLEU(lowercase=True, effective_order=True)
    columns = np.zeros((len(written), 2 + 2 * ORDER))
    for row, (said, truth) in enumerate(zip(written, true, strict=True)):
        one = scorer.sentence_score(said, [truth])
        columns[row] = [one.sys_len, one.ref_len, *one.counts, *one.totals]
    return Sums(columns, _bleu, np.ones(len(written), bool))


def _bleu(sums: Floats) -> Floats:
    """(k,) of sums (k, 10): lengths of both, n-grams that match and n-grams written, n from 1 to 4."""
    said, truth, right, total = sums[:, 0], sums[:, 1], sums[:, 2 : 2 + ORDER], sums[:, 2 + ORDER :]
    halves = np.cumsum(right == 0, axis=1)  # the k-th order without a match counts 1 / 2^k of one match
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(right > 0, right, 0.5**halves) / total
        short = np.where(said < truth, np.exp(1 - truth / said), 1.0)
        found = short * np.exp(np.log(precision).mean(axis=1))
    return np.where((right > 0).any(axis=1) & (total > 0).all(axis=1), found, 0.0)


def about(written: Sequence[str], features: Sequence[str]) -> dict[str, Sums]:
    """Whether explanations name their row's feature, and what share of all features any of them names.

    A feature is named where its words stand side by side. Of coverage each row that asks for a feature counts one part
    of all that ask for it, so that the sum is how many are covered; a draw keeps which of them are. Both are nan where
    no row has a feature.
    """
    wanted = [tuple(words(feature)) for feature in features]
    asked = Counter(feature for feature in wanted if feature)
    longest = max(map(len, asked), default=0)
    named = [_grams(words(text), range(1, longest + 1)) & asked.keys() for text in written]
    covered = set[tuple[str, ...]]().union(*named)
    hit = [float(feature in found) if feature else np.nan for feature, found in zip(wanted, named, strict=True)]
    whole = np.array([1 / asked[feature] if feature else 0.0 for feature in wanted], np.float64)
    part = whole * np.array([feature in covered for feature in wanted], bool)
    return {"feature_hit": mean(np.array(hit, np.float64)), "feature_coverage": share(part, whole)}


def distinct(written: Sequence[str]) -> dict[str, Sums]:
    """Different n-grams among all n-grams, and different explanations among all, letter case and signs aside.

    A thing that stands c times counts 1 / c each time: the sum is how many different ones there are. So a draw of users
    keeps how common things are in the whole text; drawing users twice would else look like repeating.
    """
    texts = [words(text) for text in written]
    found = {}
    for n in (1, 2):
        grams = [list(zip(*(text[k:] for k in range(n)), strict=False)) for text in texts]
        found[f"distinct_{n}"] = _different(grams)
    return found | {"unique_sentences": _different([[tuple(text)] for text in texts])}


def _different(things: Sequence[Sequence[tuple[str, ...]]]) -> Sums:
    often = Counter(thing for row in things for thing in row)
    part = [sum(1 / often[thing] for thing in row) for row in things]
    return share(np.array(part, np.float64), np.array([len(row) for row in things], np.float64))


def _grams(text: Sequence[str], lengths: Iterable[int]) -> set[tuple[str, ...]]:
    return {tuple(text[start : start + n]) for n in lengths for start in range(len(text) - n + 1)}


def _rouge(written: Sequence[str], true: Sequence[str]) -> dict[str, Floats]:
    """(n,) F1 of words, of pairs of words, and of the longest common subsequence (Lin 2004), by rouge-score.

    Words are as its own tokenizer has them, in any script: its own drops all letters but a to z.
    """
    kinds = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    scored = [_scorer().score(truth, said) for said, truth in zip(written, true, strict=True)]
    return {name: np.array([one[kind].fmeasure for one in scored], np.float64) for name, kind in kinds.items()}


class _Words:
    def tokenize(self, text: str) -> list[str]:
        return _LETTERS.findall(text.casefold())


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Words())


def copied(train: Sequence[str], train_items: Sequence[str], items: Sequence[str], seed: int = 0) -> list[str]:
    """A floor that writes nothing: for each row a training explanation of the same item, drawn by `seed`; for an item
    that has none, one of any item."""
    rng, of_item = np.random.default_rng(seed), dict[str, list[str]]()
    for text, item in zip(train, train_items, strict=True):
        of_item.setdefault(item, []).append(text)
    choices = [of_item.get(item, train) for item in items]
    return [some[int(rng.integers(len(some)))] for some in choices]


def boilerplate(train: Sequence[str], rows: int) -> list[str]:
    """A floor that tells nothing: for every row the training explanation whose words are the commonest among all."""
    texts = [words(text) for text in train]
    common = Counter(word for text in texts for word in set(text))
    worth = [sum(common[word] for word in set(text)) / max(len(text), 8) for text in texts]
    return [train[int(np.argmax(worth))]] * rows
