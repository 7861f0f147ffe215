"""Draws the demo's pictures and clip frames: flat shapes on a table, 144 px, antialiased.

A frame has three by three cells: six slots for what is added, the pot below.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

from latefuse.data.demo.world import COLOURS, GARNISHES, INGREDIENTS, Dish

SIZE = 144
SCALE = 2
Colour = tuple[int, int, int]
RGB = dict(COLOURS.values())
TABLE = (190, 198, 206)
KITCHEN = (140, 150, 158)
SLOTS = 6
PHASES = (-6.0, 0.0, 6.0)
CELL = 96  # drawing pixels
CERAMIC = (232, 228, 222)
CLOTH = (96, 104, 118)
EDGE = (40, 40, 48)
BITS = (52, 44, 46)
BROTH = (236, 196, 96)
LEVELS = 5


def glyph(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, fill: Colour, hole: Colour = EDGE
) -> None:
    """One shape of `world.SHAPES` with its centre at (x, y); coordinates and radius in drawing pixels."""
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "disc":
        draw.ellipse(box, fill=fill, outline=EDGE, width=2)
    elif shape == "ring":
        draw.ellipse(box, fill=fill, outline=EDGE, width=2)
        inner = radius * 0.5
        draw.ellipse((x - inner, y - inner, x + inner, y + inner), fill=hole)
    else:
        draw.polygon([(x + radius * u, y + radius * v) for u, v in OUTLINES[shape]], fill=fill, outline=EDGE, width=2)


def _star() -> list[tuple[float, float]]:
    points = []
    for k in range(10):
        r = 1.15 if k % 2 == 0 else 0.45
        points.append((r * math.sin(k * math.pi / 5), -r * math.cos(k * math.pi / 5)))
    return points


OUTLINES: dict[str, list[tuple[float, float]]] = {
    "bar": [(-0.35, -1.1), (0.35, -1.1), (0.35, 1.1), (-0.35, 1.1)],
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "diamond": [(0, -1.2), (0.8, 0), (0, 1.2), (-0.8, 0)],
    "triangle": [(0, -1.05), (1.05, 0.9), (-1.05, 0.9)],
    "star": _star(),
    "cross": [
        (-0.35, -1.1), (0.35, -1.1), (0.35, -0.35), (1.1, -0.35), (1.1, 0.35), (0.35, 0.35),
        (0.35, 1.1), (-0.35, 1.1), (-0.35, 0.35), (-1.1, 0.35), (-1.1, -0.35), (-0.35, -0.35),
    ],
}  # fmt: skip


def _canvas(background: Colour) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), background)
    return picture, ImageDraw.Draw(picture)


def _shaded(colour: Colour, factor: float) -> Colour:
    return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))


def plate(draw: ImageDraw.ImageDraw, plating: str, x: float, y: float) -> None:
    """The plate under the food: one of `world.PLATINGS`."""
    near, wide = 128, 138
    box = (x - near, y - near, x + near, y + near)
    if plating == "round":
        draw.ellipse(box, fill=CERAMIC, outline=(150, 150, 150), width=3)
    elif plating == "square":
        draw.rectangle(box, fill=CERAMIC, outline=(150, 150, 150), width=3)
    elif plating == "bowl":
        draw.ellipse(box, fill=(64, 84, 120), outline=(30, 40, 60), width=4)
    elif plating == "board":
        draw.rectangle((x - wide, y - 104, x + wide, y + 104), fill=(176, 128, 80), outline=(110, 76, 40), width=4)
    else:
        corners = [(x, y - wide), (x + wide, y), (x, y + wide), (x - wide, y)]
        draw.polygon(corners, fill=(96, 150, 90), outline=(50, 90, 50), width=4)


def scene(colour: str, garnish: tuple[str, str], texture: str, plating: str, rng: random.Random) -> Image.Image:
    """A plated food: plain colour word, garnish (plain colour, shape), shape of the bits, plating. Everything jitters.

    The words are the plain ones, so that pre-training can draw what no dish is.
    """
    picture, draw = _canvas(TABLE)
    middle = SIZE * SCALE / 2
    x, y = middle + rng.uniform(-5, 5), middle + rng.uniform(-5, 5)
    plate(draw, plating, x, y)
    food = RGB[colour]
    draw.ellipse((x - 110, y - 110, x + 110, y + 110), fill=food, outline=_shaded(food, 0.6), width=3)
    turn = rng.uniform(-0.1, 0.1)
    for k in range(4):
        angle = math.pi / 4 + k * math.pi / 2 + turn
        glyph(draw, texture, x + 80 * math.cos(angle), y + 80 * math.sin(angle), 27, BITS, hole=food)
    draw.ellipse((x - 40, y - 40, x + 40, y + 40), fill=CLOTH)
    glyph(draw, garnish[1], x, y, 28, RGB[garnish[0]])
    return picture.reduce(SCALE)


def dish_picture(dish: Dish, rng: random.Random) -> Image.Image:
    """The photo of a dish: its colour, garnish, main and plating, and nothing else of it."""
    main = INGREDIENTS[dish.main]
    return scene(COLOURS[dish.colour][0], GARNISHES[dish.garnish], main.shape, dish.plating, rng)


def addition_frame(
    colour: str, shape: str, slots: Sequence[int], fall: float, level: int, rng: random.Random
) -> Image.Image:
    """One frame of a clip: one glyph per slot of 0..5 falls into the pot.

    fall: one of PHASES, in drawing pixels. level: 1 to LEVELS, how full the pot is; it rises with every step.
    """
    picture, draw = _canvas(KITCHEN)
    _pot(draw, level)
    for slot in slots:
        x = CELL * (slot % 3 + 0.5) + rng.uniform(-5, 5)
        y = CELL * (slot // 3 + 0.5) + fall + rng.uniform(-4, 4)
        glyph(draw, shape, x, y, 35, RGB[colour])
    return picture.reduce(SCALE)


def step_picture(dish: Dish, rng: random.Random) -> Image.Image:
    """What falls into the pot first, as many as there are."""
    name, times = dish.additions[0]
    look = INGREDIENTS[name]
    return addition_frame(look.colour, look.shape, rng.sample(range(SLOTS), times), rng.choice(PHASES), 1, rng)


def technique_frame(shown: str, phase: float, level: int) -> Image.Image:
    """One frame of the last step: flames, oven, clouds, arrows or grate above the pot. phase: 0 to 1."""
    picture, draw = _canvas(KITCHEN)
    shift = 10 * phase
    if shown == "oven":
        draw.rectangle((14, 14 + shift, 274, 190), fill=(60, 60, 70), outline=(20, 20, 24), width=8)
    elif shown == "grate":
        for k in range(5):
            draw.rectangle((8, 12 + 36 * k + shift, 280, 28 + 36 * k + shift), fill=(50, 50, 50))
    _pot(draw, level)
    if shown == "flames":
        for k in range(5):
            glyph(draw, "triangle", 40 + 52 * k, 172 - shift, 32, (250, 120, 20))
    elif shown == "clouds":
        for k in range(4):
            glyph(draw, "disc", 48 + 64 * k, 90 - shift, 40, (245, 250, 255))
    elif shown == "arrows":
        for x in (48, 240):
            draw.polygon([(x, 30 + shift), (x + 36, 96 + shift), (x - 36, 96 + shift)], fill=(30, 150, 60))
            draw.rectangle((x - 12, 96 + shift, x + 12, 160 + shift), fill=(30, 150, 60))
    return picture.reduce(SCALE)


def _pot(draw: ImageDraw.ImageDraw, level: int) -> None:
    draw.rectangle((56, 196, 232, 284), fill=(64, 72, 88), outline=EDGE, width=4)
    for k in range(level):
        draw.rectangle((64, 268 - 16 * k, 224, 278 - 16 * k), fill=BROTH)
