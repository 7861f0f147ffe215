"""Clips of a dish being made: one to four glyphs fall per step, the technique closes; 8 to 16 frames, H.264."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image

from latefuse.data.demo.pictures import PHASES, SIZE, SLOTS, addition_frame, technique_frame
from latefuse.data.demo.world import INGREDIENTS, TECHNIQUES, Dish

FRAMES_PER_SECOND = 4


def dish_frames(dish: Dish, rng: random.Random) -> list[Image.Image]:
    """The frames of a dish's clip. Each step lasts two to three frames, so eight even samples meet every step."""
    steps = len(dish.additions) + 1
    lasting = [2 + (rng.random() < 0.5) for _ in range(steps)]
    frames = []
    for level, ((name, times), length) in enumerate(zip(dish.additions, lasting, strict=False), start=1):
        look = INGREDIENTS[name]
        slots = rng.sample(range(SLOTS), times)
        frames += [addition_frame(look.colour, look.shape, slots, PHASES[k], level, rng) for k in range(length)]
    frames += [technique_frame(TECHNIQUES[dish.technique], k / lasting[-1], steps) for k in range(lasting[-1])]
    return frames


def write_clip(frames: list[Image.Image], path: Path) -> None:
    """Encode frames as an mp4 (H.264, yuv420p, one thread so that the bytes are the same everywhere)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=FRAMES_PER_SECOND, options={"crf": "16", "preset": "ultrafast", "threads": "1"}
        )
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
