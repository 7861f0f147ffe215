"""General captions that the demo base learns from: plain words for drawn shapes, never a dish, a recipe or an answer.

Pictures keep clear of every held-out (colour, garnish, main) triple; clips drop random shapes in no recipe's order;
words are lists and a glossary that says one plain phrase after the other in kitchen words, never paired with media.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, product

import numpy as np
from PIL import Image

from latefuse.data.demo import pictures, words, world

PIXELS = 48
PLAIN = {plain: name for name, (plain, _) in world.COLOURS.items()}
MAIN_OF_SHAPE = {world.INGREDIENTS[main].shape: main for main in world.MAINS}
VARIANTS = 8
POT = 32  # the row where the pot begins
FRAME_QUESTION = "what falls here ?"
PICTURE_QUESTION = "describe this picture ."
DROPS_QUESTION = "list the drops of this clip ."
FRAMES_QUESTION = "what is in each frame of this clip ?"
WORDS_QUESTION = "write a list ."
ECHO_QUESTION = ", say it again ."
GLOSSARY_QUESTION = ", in kitchen words ."
QUESTIONS = (
    FRAME_QUESTION,
    PICTURE_QUESTION,
    DROPS_QUESTION,
    FRAMES_QUESTION,
    WORDS_QUESTION,
    ECHO_QUESTION,
    GLOSSARY_QUESTION,
)
LOOKS = {
    "colour": tuple(pictures.RGB),
    "shape": world.SHAPES,
    "bits": world.SHAPES,
    "plate": world.PLATINGS,
    "top": tuple(" ".join(top) for top in world.GARNISHES.values()),
    "times": tuple(str(times) for times in range(1, world.MAX_TIMES + 1)),
    "shown": tuple(world.TECHNIQUES.values()),
    "level": tuple(str(level) for level in range(1, pictures.LEVELS + 1)),
}
"""What a picture or a frame can be asked about, and the plain answers."""

GLOSSARY: Mapping[str, tuple[float, tuple[tuple[str, str], ...]]] = {
    "colour": (0.15, tuple((f"{plain} food", name) for name, (plain, _) in world.COLOURS.items())),
    "garnish": (0.12, tuple((f"{' '.join(look)} on top", name) for name, look in world.GARNISHES.items())),
    "main": (0.12, tuple((f"{world.INGREDIENTS[name].shape} bits", name) for name in world.MAINS)),
    "technique": (0.08, tuple((shown, name) for name, shown in world.TECHNIQUES.items())),
    "origin": (0.12, tuple((town, name) for name, towns in world.ORIGINS.items() for town in towns)),
    "allergen": (0.12, tuple((trace, name) for name, traces in world.ALLERGENS.items() for trace in traces)),
    "amount": (
        0.29,
        tuple(
            (f"{times} {look.colour} {look.shape}", words.addition_text(look.name, times))
            for look in world.INGREDIENTS.values()
            for times in range(1, world.MAX_TIMES + 1)
        ),
    ),
}
"""Topic -> its share, and plain phrases with what the kitchen calls them."""


@dataclass(frozen=True)
class Lesson:
    """One caption. answer: one part for all, or one per frame. shown: numbers of drawings, none for words."""

    modality: str
    question: str
    answer: tuple[str, ...]
    shown: tuple[int, ...]


def shrink(image: Image.Image) -> np.ndarray:
    """The picture at the base's own size, by the filter that its image processor uses; (48, 48, 3) uint8."""
    return np.asarray(image.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC))


@cache
def _pots() -> list[np.ndarray]:
    """The pot's part of a frame, level by level from empty."""
    levels = range(pictures.LEVELS + 1)
    return [shrink(pictures.addition_frame("red", "disc", (), 0.0, k, random.Random(0)))[POT:] for k in levels]


class Lessons:
    """An endless supply of lessons from one seed; frames are drawn once and reused in many clips. more: words to say
    again, beside those of the kitchen."""

    def __init__(self, seed: int, frames: int, scenes: int = 2_400, more: Sequence[str] = ()) -> None:
        self.rng = random.Random(seed)
        self.frames = frames
        self.pool = [value for values in world.ATTRIBUTES.values() for value in values]
        self.pool += [word for table in (world.ALLERGENS, world.ORIGINS) for word in (*table, *chain(*table.values()))]
        self.said = [*self.pool, *more]
        drawn: list[np.ndarray] = []
        self.steps = [self._drawn_step(caption, tops, drawn) for caption, tops in self._tops()]
        self.scenes = [self._drawn_scene(drawn) for _ in range(scenes)]
        self.drawings = np.stack(drawn)
        """(n, 48, 48, 3) uint8: every frame and picture that a lesson shows."""

    def batch(self, kind: str, size: int) -> list[Lesson]:
        """`size` lessons of one kind: picture, frame, drops, frames, words, echo or glossary."""
        makers = {
            "picture": self.picture,
            "frame": self.frame,
            "drops": self.drop_list,
            "frames": self.frame_list,
            "words": self.word_list,
            "echo": self.echo,
            "glossary": self.glossary,
        }
        return [makers[kind]() for _ in range(size)]

    def looks_of(self, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Drawings (size, 48, 48, 3) and the class of each aspect of LOOKS, -100 where a drawing does not have it."""
        drawn = [self.aspects() for _ in range(size)]
        classes = {aspect: np.full(size, -100) for aspect in LOOKS}
        for row, (aspects, _) in enumerate(drawn):
            for aspect, value in aspects.items():
                classes[aspect][row] = LOOKS[aspect].index(value)
        return self.drawings[[number for _, number in drawn]], classes

    def aspects(self) -> tuple[dict[str, str], int]:
        """What one drawing shows, by LOOKS, and its number."""
        if self.rng.random() < 0.5:
            caption, number = self.rng.choice(self.scenes)
            food, bits, plated, top = (part.split() for part in caption.split(" , "))
            return {"colour": food[0], "bits": bits[0], "plate": plated[0], "top": f"{top[0]} {top[1]}"}, number
        level = self.rng.randint(1, pictures.LEVELS)
        caption, number = self._step(1, level)[0]
        said = caption.split()
        aspects = dict(zip(("times", "colour", "shape"), said, strict=True)) if len(said) == 3 else {"shown": caption}
        return {**aspects, "level": str(level)}, number

    def picture(self) -> Lesson:
        """A plated food in plain words."""
        answer, number = self.rng.choice(self.scenes)
        return Lesson("image", PICTURE_QUESTION, (answer,), (number,))

    def frame(self) -> Lesson:
        """One clip frame shown as a picture."""
        caption, number = self._step(1, self.rng.randint(1, pictures.LEVELS))[0]
        return Lesson("image", FRAME_QUESTION, (caption,), (number,))

    def drop_list(self) -> Lesson:
        """A clip and what drops in it, each step once."""
        frames = self._clip()
        captions = [caption for caption, _ in frames]
        once = [k for k, caption in enumerate(captions) if k == 0 or captions[k - 1] != caption]
        told = " ".join(f"{number}. {captions[k]}" for number, k in enumerate(once, start=1))
        return Lesson("video", DROPS_QUESTION, (told,), tuple(number for _, number in frames))

    def frame_list(self) -> Lesson:
        """A clip and what is in each of its frames."""
        frames = self._clip()
        captions = tuple(caption for caption, _ in frames)
        return Lesson("video", FRAMES_QUESTION, captions, tuple(number for _, number in frames))

    def word_list(self) -> Lesson:
        """Words of the kitchen in no dish's order: the frozen head must have met them."""
        return Lesson("text", WORDS_QUESTION, (self.rng.choice((self._shopping, self._names, self._spelling))(),), ())

    def echo(self) -> Lesson:
        """Words to be said again: every word is met where it is read and where it is said."""
        said = " ".join(self.rng.choices(self.said, k=self.rng.randint(3, 8)))
        return Lesson("text", f"{said} {ECHO_QUESTION}", (said,), ())

    def glossary(self) -> Lesson:
        """A few plain phrases, each said in kitchen words."""
        plain, meant = zip(*(self._entry() for _ in range(self.rng.randint(2, 5))), strict=True)
        return Lesson("text", f"{' , '.join(plain)} {GLOSSARY_QUESTION}", (" ; ".join(meant),), ())

    def _entry(self) -> tuple[str, str]:
        """A plain phrase and what the kitchen calls it."""
        topic = self.rng.choices(tuple(GLOSSARY), weights=[share for share, _ in GLOSSARY.values()])[0]
        return self.rng.choice(GLOSSARY[topic][1])

    def _shopping(self) -> str:
        bought = [
            words.addition_text(self.rng.choice(tuple(world.INGREDIENTS)), self.rng.randint(1, world.MAX_TIMES))
            for _ in range(4)
        ]
        steps = " ".join(f"{number}." for number in self.rng.sample(range(1, 6), 2))
        return f"ingredients : {' ; '.join(bought)} steps : {steps}"

    def _names(self) -> str:
        return " ".join(self.rng.choices(self.pool, k=8))

    def _spelling(self) -> str:
        return " ".join(
            "".join(self.rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=self.rng.randint(2, 5)))
            for _ in range(3)
        )

    def _tops(self) -> Iterator[tuple[str, list[np.ndarray]]]:
        """What a step may show above the pot: its caption and some drawings."""
        for colour, shape, times in product(pictures.RGB, world.SHAPES, range(1, world.MAX_TIMES + 1)):
            yield f"{times} {colour} {shape}", [self._drop(colour, shape, times, k) for k in range(VARIANTS)]
        for shown in world.TECHNIQUES.values():
            yield shown, [shrink(pictures.technique_frame(shown, phase, 0)) for phase in (0, 1 / 3, 1 / 2, 2 / 3)]

    def _drop(self, colour: str, shape: str, times: int, k: int) -> np.ndarray:
        slots = self.rng.sample(range(pictures.SLOTS), times)
        return shrink(pictures.addition_frame(colour, shape, slots, pictures.PHASES[k % 3], 0, self.rng))

    def _drawn_step(
        self, caption: str, tops: list[np.ndarray], drawn: list[np.ndarray]
    ) -> tuple[str, list[tuple[int, ...]]]:
        """(caption, per level the numbers of its drawings); the same tops stand over pots of every level."""
        levels = []
        for level in range(1, pictures.LEVELS + 1):
            start = len(drawn)
            drawn += [np.concatenate([top[:POT], _pots()[level]]) for top in tops]
            levels.append(tuple(range(start, len(drawn))))
        return caption, levels

    def _step(self, length: int, level: int) -> list[tuple[str, int]]:
        technique = self.rng.random() < 0.15
        endings = len(world.TECHNIQUES)
        caption, levels = self.rng.choice(self.steps[-endings:] if technique else self.steps[:-endings])
        return [(caption, self.rng.choice(levels[level - 1])) for _ in range(length)]

    def _clip(self) -> list[tuple[str, int]]:
        steps = self.rng.randint(3, min(pictures.LEVELS, self.frames))
        cuts = sorted(self.rng.sample(range(1, self.frames), steps - 1))
        lengths = [end - start for start, end in zip([0, *cuts], [*cuts, self.frames], strict=True)]
        return [frame for level, length in enumerate(lengths, start=1) for frame in self._step(length, level)]

    def _drawn_scene(self, drawn: list[np.ndarray]) -> tuple[str, int]:
        caption, pixels = self._scene()
        drawn.append(pixels)
        return caption, len(drawn) - 1

    def _scene(self) -> tuple[str, np.ndarray]:
        for colour, garnish, texture, plating in self._scene_values():
            if world.held_out(PLAIN[colour], garnish, MAIN_OF_SHAPE[texture]) == "train":
                top = world.GARNISHES[garnish]
                image = pictures.scene(colour, top, texture, plating, self.rng)
                return f"{colour} food , {texture} bits , {plating} plate , {top[0]} {top[1]} on top", shrink(image)
        raise AssertionError("unreachable: the generator of values does not end")

    def _scene_values(self) -> Iterator[tuple[str, str, str, str]]:
        while True:
            yield (
                self.rng.choice(tuple(pictures.RGB)),
                self.rng.choice(tuple(world.GARNISHES)),
                self.rng.choice(world.SHAPES),
                self.rng.choice(world.PLATINGS),
            )
