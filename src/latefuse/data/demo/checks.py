"""Questions about one drawing, for a base that is to compare words with a picture: what is there, is it as it is said?

Large bases bring this along; the demo's has to be taught. Claims and the forms of texts are those of judgements, on
drawings of its own; what is left to a judge are rules in their own words and what follows from them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from latefuse.data.demo import judgements
from latefuse.data.demo.judgements import CLAIMS, Claims
from latefuse.data.demo.lessons import LOOKS, Lessons

YES, NO = "yes", "no"
ASKED = 4
MOST, TOPICS = 3, 0.4
"""Questions about one drawing; drawings in one conversation, and how many conversations are about one kind of claim."""
FIRST: Mapping[str, float] = {"look": 0.4, "claim": 0.6}
THEN: Mapping[str, float] = {"look": 0.25, "claim": 0.25, "list": 0.25, "part": 0.25}
"""Kinds of questions about a plate -> their share: first what it shows and single claims, then lists of claims too.

Without questions for what is there, claims about small things stay at chance: there is nothing yet to compare with.
"""
DROPS: Mapping[str, float] = {"look": 0.4, "claim": 0.6}
OFTEN: Mapping[str, int] = {"colour": 1, "top": 3, "bits": 3, "plate": 1}
"""How often a look is asked about: more where it is small."""
DROP: Mapping[str, str] = {"times": "count", "colour": "colour", "shape": "shape"}
"""What a drop shows -> what it is asked by."""
WORDS = (YES, NO, *DROP.values(), "about", "the")


@dataclass(frozen=True)
class Check:
    """Questions about one drawing, each with its answer. before: words that stand before the picture."""

    before: str
    asked: tuple[tuple[str, str], ...]
    shown: int


class Checks:
    """An endless supply of questions about what lessons show, from the same seed."""

    def __init__(self, lessons: Lessons) -> None:
        self.lessons, self.rng = lessons, lessons.rng

    def first(self, count: int) -> list[list[Check]]:
        """`count` drawings, one to a conversation: what they show, and single claims."""
        return [[self.draw(FIRST)] for _ in range(count)]

    def then(self, count: int) -> list[list[Check]]:
        """`count` drawings, one to MOST to a conversation, each asked about in its turn: lists of claims too.

        A share of conversations says once, in the beginning, which claim it is about. All have as many drawings but for
        the last, so that a batch of them is little padded.
        """
        most = self.rng.randint(1, MOST)
        return [self._conversation(min(most, count - begun)) for begun in range(0, count, most)]

    def _conversation(self, size: int) -> list[Check]:
        if self.rng.random() < TOPICS:
            return self._about(self.rng.choice(tuple(CLAIMS)), size)
        return [self.draw(THEN) for _ in range(size)]

    def _about(self, look: str, size: int) -> list[Check]:
        several = []
        for number in range(size):
            shown, drawing = self._shown(plate=True)
            asked = tuple(self._part(shown, look, said=False) for _ in range(ASKED))
            several.append(Check("" if number else f"about the {CLAIMS[look][2]} :", asked, drawing))
        return several

    def _shown(self, plate: bool = False) -> tuple[Claims, int]:
        while True:
            shown, number = self.lessons.aspects()
            if "plate" in shown or (not plate and "times" in shown):
                return shown, number

    def draw(self, kinds: Mapping[str, float]) -> Check:
        """A plate or what falls into a pot, and what is asked of it. kinds: FIRST or THEN."""
        before = " ".join(self.rng.choices(self.lessons.said, k=self.rng.choice((0, self.rng.randint(3, 16)))))
        shown, number = self._shown()
        asked = [self._drop(shown) if "times" in shown else self._plate(shown, kinds) for _ in range(ASKED)]
        return Check(f"{before} :" if before else "", tuple(asked), number)

    def _drop(self, shown: Claims) -> tuple[str, str]:
        if self._one(DROPS) == "look":
            part = self.rng.choice(tuple(DROP))
            return f"{DROP[part]} ?", shown[part]
        wrong = self.rng.choice((*DROP, None, None, None))
        said = [self._other(part, shown[part]) if part == wrong else shown[part] for part in DROP]
        return f"{' '.join(said)} ?", YES if wrong is None else NO

    def _plate(self, shown: Claims, kinds: Mapping[str, float]) -> tuple[str, str]:
        kind = self._one(kinds)
        if kind in ("look", "claim"):
            look = self._one(OFTEN)
            return (f"{CLAIMS[look][2]} ?", shown[look]) if kind == "look" else self._claim(look, shown[look])
        if kind == "part":
            return self._part(shown, self.rng.choice(tuple(CLAIMS)), said=True)
        looks = self.rng.sample(tuple(CLAIMS), self.rng.choice((2, 2, 3)))
        share = 1 - 0.5 ** (1 / len(looks))
        wrong = {look for look in looks if self.rng.random() < share}
        return f"{self._list(shown, looks, wrong)} ?", NO if wrong else YES

    def _part(self, shown: Claims, look: str, said: bool) -> tuple[str, str]:
        """A list of claims of which one counts. said: whether the question names it."""
        looks = [look, *self.rng.sample([one for one in CLAIMS if one != look], self.rng.choice((1, 1, 2)))]
        self.rng.shuffle(looks)
        wrong = {one for one in looks if self.rng.random() < 0.5}
        named = f" : {CLAIMS[look][2]}" if said else ""
        return f"{self._list(shown, looks, wrong)}{named} ?", NO if look in wrong else YES

    def _list(self, shown: Claims, looks: Sequence[str], wrong: Collection[str]) -> str:
        claims = {look: self._other(look, shown[look]) if look in wrong else shown[look] for look in looks}
        return self.rng.choice(judgements.FORMATS)(claims)

    def _claim(self, look: str, true: str) -> tuple[str, str]:
        right = self.rng.random() < 0.5
        value = true if right else self._other(look, true)
        _, claim, key = CLAIMS[look]
        said = claim.format(value) if self.rng.random() < 0.5 else f"{key} : {value}"
        return f"{said} ?", YES if right else NO

    def _other(self, look: str, value: str) -> str:
        return self.rng.choice([one for one in LOOKS[look] if one != value])

    def _one(self, shares: Mapping[str, float]) -> str:
        return self.rng.choices(tuple(shares), weights=tuple(shares.values()))[0]
