"""Thumbnails inside the page: pictures and a clip's frames as small JPEG data, decoded where all media are decoded."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from latefuse.data.media import MediaError, open_image, read_frames

SIDE = 168
FRAME = 84
QUALITY = 82


def image(path: Path) -> str | None:
    """A picture as a data URI, its longer side SIDE pixels at most; None where it can't be read."""
    try:
        return _uri(_small(open_image(path), SIDE))
    except MediaError:
        return None


def clip(path: Path, frames: int) -> str | None:
    """Frames of a clip side by side, in two rows where there are more than four, as one data URI."""
    try:
        return _uri(strip(read_frames(path, frames)))
    except MediaError:
        return None


def strip(frames: Sequence[Image.Image]) -> Image.Image:
    """A contact sheet of at most four frames a row."""
    small = [_small(frame, FRAME) for frame in frames]
    width, height = max(f.width for f in small), max(f.height for f in small)
    columns = min(len(small), 4)
    rows = -(-len(small) // columns)
    sheet = Image.new("RGB", (columns * (width + 2) - 2, rows * (height + 2) - 2), (128, 128, 128))
    for k, frame in enumerate(small):
        sheet.paste(frame, ((k % columns) * (width + 2), (k // columns) * (height + 2)))
    return sheet


def _small(picture: Image.Image, side: int) -> Image.Image:
    picture = picture.copy()
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def _uri(picture: Image.Image) -> str:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
