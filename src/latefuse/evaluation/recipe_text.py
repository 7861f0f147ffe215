"""Recipes out of free text: amounts, units, ingredients and ordered steps.

Reads the one-line form that the demo is trained on (`ingredients : 2 cups rice ; 1 tbsp butter steps : add rice`) and
ordinary recipes of several lines with bullets and numbers. Nothing here raises on odd text: what can't be read is kept
as a name without an amount, so that a model's worst answer still gets its score.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

Base = Literal["g", "ml", "count"]

# canonical unit: (base, how many base units one of it is, other spellings). Kitchen measures are the US ones.
_UNITS: dict[str, tuple[Base, float, str]] = {
    "g": ("g", 1, "gram grams gramme grammes gr gm gms"),
    "kg": ("g", 1000, "kilo kilos kilogram kilograms kgs"),
    "mg": ("g", 0.001, "milligram milligrams"),
    "oz": ("g", 28.3495, "ounce ounces ozs"),
    "lb": ("g", 453.592, "lbs pound pounds"),
    "ml": ("ml", 1, "milliliter milliliters millilitre millilitres mls cc"),
    "cl": ("ml", 10, "centiliter centiliters centilitre centilitres"),
    "dl": ("ml", 100, "deciliter deciliters decilitre decilitres"),
    "l": ("ml", 1000, "liter liters litre litres"),
    "tsp": ("ml", 4.92892, "teaspoon teaspoons tsps"),
    "tbsp": ("ml", 14.7868, "tablespoon tablespoons tbsps tbs tbl tblsp"),
    "fl oz": ("ml", 29.5735, "floz"),
    "cup": ("ml", 236.588, "cups c"),
    "pint": ("ml", 473.176, "pints pt pts"),
    "quart": ("ml", 946.353, "quarts qt qts"),
    "gallon": ("ml", 3785.41, "gallons gal"),
    "drop": ("ml", 0.05, "drops"),
    "dash": ("ml", 0.616, "dashes"),
    "pinch": ("ml", 0.308, "pinches"),
    "clove": ("count", 1, "cloves"),
    "slice": ("count", 1, "slices"),
    "piece": ("count", 1, "pieces pcs pc"),
    "can": ("count", 1, "cans tin tins"),
    "jar": ("count", 1, "jars"),
    "package": ("count", 1, "packages packet packets pkg pkgs pack packs"),
    "stick": ("count", 1, "sticks"),
    "sprig": ("count", 1, "sprigs"),
    "stalk": ("count", 1, "stalks"),
    "bunch": ("count", 1, "bunches"),
    "head": ("count", 1, "heads"),
    "leaf": ("count", 1, "leaves"),
    "handful": ("count", 1, "handfuls"),
    "scoop": ("count", 1, "scoops"),
    "sheet": ("count", 1, "sheets"),
    "fillet": ("count", 1, "fillets filet filets"),
}
_SPELLINGS = {word: unit for unit, (_, _, words) in _UNITS.items() for word in (unit, *words.split())}
_CASED_UNITS = {"T": "tbsp", "t": "tsp", "Tb": "tbsp", "L": "l"}  # "1 T butter" is a tablespoon, "1 t salt" a teaspoon

_WORD_NUMBERS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "half": 0.5, "quarter": 0.25,
}  # fmt: skip
_STOP_WORDS = frozenset({
    "of", "the", "a", "an", "and", "or", "with", "for", "to", "taste", "fresh", "freshly", "chopped", "sliced",
    "diced", "minced", "grated", "shredded", "peeled", "crushed", "ground", "cooked", "uncooked", "raw", "dried",
    "large", "small", "medium", "big", "finely", "roughly", "coarsely", "thinly", "optional", "more", "plus", "about",
    "approximately", "extra", "cut", "into", "halved", "quartered", "melted", "softened", "drained", "rinsed",
    "packed", "level", "heaping", "heaped", "each", "some", "few", "needed", "as",
})  # fmt: skip
_IRREGULAR = {
    "leaves": "leaf",
    "loaves": "loaf",
    "halves": "half",
    "knives": "knife",
    "calves": "calf",
    "molasses": "molasses",
}
_NOT_PLURAL = ("ss", "us", "is", "as")

_NUMBER = r"(?:\d+\s+\d+/\d+|\d+/\d+|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+[.,]\d+|\.\d+|\d+)"
_AMOUNT = re.compile(
    rf"\s*(?:about|approx\.?|approximately|ca\.?|~)?\s*({_NUMBER})(?:\s*(?:-|to|or)\s*({_NUMBER}))?(?![\d/])\s*",
    re.IGNORECASE,
)
_WORDED = re.compile(r"\s*(half an?|an?|" + "|".join(w for w in _WORD_NUMBERS if len(w) > 2) + r")\s+", re.IGNORECASE)
_DOZEN = re.compile(r"dozen\s+", re.IGNORECASE)
_UNIT = re.compile(r"(fl\.?\s*oz|[A-Za-z]+)\.?(?=\s|$|,)\s*")
_AMOUNT_BEHIND = re.compile(r"(?P<name>[^\W\d][^\d(:;]*?)\s*[-–:,(]?\s*(?P<amount>\d[^()]*?)\)?$")
_PACK = re.compile(r"^\([^)]*\)\s*")


@dataclass(frozen=True)
class Amount:
    """How much: `value` (the middle of a range), its ends, and the canonical unit ("" where things are counted)."""

    value: float
    unit: str = ""
    low: float = field(default=0.0, compare=False)
    high: float = field(default=0.0, compare=False)

    @property
    def base(self) -> tuple[float, Base]:
        """The quantity in grams, millilitres or pieces."""
        return to_base(self.value, self.unit)


@dataclass(frozen=True)
class Ingredient:
    """One line of an ingredient list; `amount` is None where none was given, `name` is normalised."""

    amount: float | None
    unit: str
    name: str

    @property
    def base(self) -> tuple[float, Base] | None:
        """The quantity in grams, millilitres or pieces; None without an amount."""
        return None if self.amount is None else to_base(self.amount, self.unit)


@dataclass(frozen=True)
class Recipe:
    """What a recipe's text says: ingredients in the order named, steps in the order told."""

    ingredients: tuple[Ingredient, ...] = ()
    steps: tuple[str, ...] = ()


def to_base(value: float, unit: str) -> tuple[float, Base]:
    """`value` of a canonical unit as (quantity, "g" | "ml" | "count"); an unknown unit counts pieces."""
    base, factor, _ = _UNITS.get(unit, ("count", 1.0, ""))
    return value * factor, base


def normalise_unit(word: str) -> str | None:
    """The canonical unit a word stands for ("Tablespoons" -> "tbsp"), or None where it is no unit."""
    bare = word.strip().rstrip(".")
    if bare in _CASED_UNITS:
        return _CASED_UNITS[bare]
    bare = re.sub(r"fl\.?\s*oz", "fl oz", bare.lower())
    return _SPELLINGS.get(bare)


def parse_amount(text: str) -> Amount | None:
    """The amount a text begins with: '1 1/2 cups', '½', '1 – 2 cups', '1,5 l', 'a pinch'; None where there is none.

    A range's value is its middle. A comma with three digits after it groups thousands, any other is a decimal comma.
    """
    return _split_amount(text)[0]


def parse_ingredient(text: str) -> Ingredient:
    """One ingredient line, '2 cups rice, cooked' or 'rice (2 cups)' -> Ingredient(2.0, 'cup', 'rice')."""
    amount, rest = _split_amount(text)
    behind = _AMOUNT_BEHIND.match(text.strip())
    if amount is None and behind:
        amount, left = _split_amount(behind["amount"])
        if amount and not left.strip():
            rest = behind["name"]
        else:
            amount = None
    if amount is None:
        return Ingredient(None, "", normalise_name(rest))
    return Ingredient(amount.value, amount.unit, normalise_name(rest))


@lru_cache(maxsize=65_536)
def normalise_name(text: str) -> str:
    """A name that can be compared: lower case, singular words, without brackets, preparation and stop words."""
    plain = _plain(text).lower()
    plain = re.sub(r"\([^)]*\)", " ", plain)
    head = plain.split(",")[0] if plain.split(",")[0].strip() else plain
    words = re.findall(r"[^\W_]+", head)
    kept = [singular(word) for word in words if word not in _STOP_WORDS]
    return " ".join(kept) if kept else " ".join(singular(word) for word in words)


@lru_cache(maxsize=65_536)
def singular(word: str) -> str:
    """An English noun's singular by rule: 'tomatoes' -> 'tomato', 'berries' -> 'berry', 'couscous' stays."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(_NOT_PLURAL):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("oes", "shes", "ches", "sses", "xes", "zes")):
        return word[:-2]
    return word[:-1]


_BULLET = re.compile(r"^\s*(?:[-*•·▪–—]\s+|\(?\d{1,2}[.)]\s+|step\s+\d+\s*[:.)-]\s*)", re.IGNORECASE)
_HEADING = re.compile(
    r"(?:^|(?<=[\s;.]))[#*\s]*(?P<name>ingredients?(?:\s+list)?|steps?|instructions?|directions?|method|preparation)\s*\**\s*:\**",
    re.IGNORECASE,
)
_BARE_HEADING = re.compile(r"(?im)^[#*\s]*(ingredients?|steps|instructions|directions|method|preparation)[*\s]*$")


def parse_recipe(text: str) -> Recipe:
    """Ingredients and steps of a recipe's text, on one line with ' ; ' or on many with bullets and numbers.

    Without any heading, lines that begin with an amount are ingredients and the others are steps.
    """
    text = _BARE_HEADING.sub(r"\1:", text.strip())
    parts = _sections(text)
    if not parts:
        entries = _entries(text)
        listed = [entry for entry in entries if parse_amount(entry) is not None]
        return Recipe(_ingredients(listed), tuple(entry for entry in entries if entry not in listed))
    ingredients = [entry for name, body in parts if name.startswith("ingredient") for entry in _entries(body)]
    steps = [entry for name, body in parts if not name.startswith("ingredient") for entry in _entries(body)]
    return Recipe(_ingredients(ingredients), tuple(steps))


def _ingredients(entries: list[str]) -> tuple[Ingredient, ...]:
    parsed = (parse_ingredient(entry) for entry in entries)
    return tuple(one for one in parsed if one.name)


def _sections(text: str) -> list[tuple[str, str]]:
    """(heading in lower case, body) of each part; what stands before the first heading is dropped as a title."""
    found = list(_HEADING.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [(match["name"].lower(), text[match.end() : end]) for match, end in zip(found, ends, strict=False)]


def _entries(body: str) -> list[str]:
    """The entries of one part: split at ';' and line ends, and a lone paragraph of steps at its numbers."""
    pieces = [piece for line in body.splitlines() for piece in line.split(";")]
    if len([p for p in pieces if p.strip()]) == 1:
        pieces = re.split(r"\s+(?=\d{1,2}[.)]\s+\w)", pieces[0] if pieces[0].strip() else body.strip())
    cleaned = (_BULLET.sub("", piece).strip(" \t*.") for piece in pieces)
    return [piece for piece in cleaned if piece]


def _plain(text: str) -> str:
    """Compatibility form: '1½' -> '1 1/2', any dash -> '-', no-break spaces -> spaces, accents kept."""
    spaced = re.sub(r"(\d)(?=[¼-¾⅐-⅞↉])", r"\1 ", text)
    plain = unicodedata.normalize("NFKC", spaced).replace("\u2044", "/")
    return re.sub(r"[\u2010-\u2015\u2212]", "-", plain)


def _split_amount(text: str) -> tuple[Amount | None, str]:
    plain = _BULLET.sub("", _plain(text)).strip()
    match = _AMOUNT.match(plain)
    low: float | None
    high: float | None
    if match:
        low = _number(match[1])
        high = _number(match[2]) if match[2] else low
    else:
        match = _WORDED.match(plain)
        if not match:
            return None, plain
        low = high = 0.5 if match[1].lower().startswith("half a") else _WORD_NUMBERS[match[1].lower()]
    if low is None or high is None:
        return None, plain
    rest = _PACK.sub("", plain[match.end() :])
    dozens = _DOZEN.match(rest)
    if dozens:
        low, high, rest = low * 12, high * 12, rest[dozens.end() :]
    word = _UNIT.match(rest)
    unit = normalise_unit(word[1]) if word else None
    if word is None or unit is None:
        return Amount((low + high) / 2, "", low, high), rest
    return Amount((low + high) / 2, unit, low, high), rest[word.end() :]


def _number(text: str) -> float | None:
    """'1 1/2', '3/4', '1,000', '1,5' or '2.5' as a number; None for a fraction with a zero below."""
    total = 0.0
    for part in text.split():
        above, slash, below = part.partition("/")
        if slash:
            if int(below) == 0:
                return None
            total += int(above) / int(below)
        elif re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", part):
            total += float(part.replace(",", ""))
        else:
            total += float(part.replace(",", "."))
    return total
