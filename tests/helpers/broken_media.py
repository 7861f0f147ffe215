"""Makes sound, odd and broken pictures and clips for tests."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


def gradient(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """A picture in which every corner differs, so that a turned or mirrored one is seen."""
    down, across = np.mgrid[0:height, 0:width]
    channels = [across * 5 % 256, down * 7 % 256, (across + down + 40 * seed) * 3 % 256]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as the bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def huge_png(width: int = 50_000, height: int = 50_000) -> bytes:
    """A PNG whose header announces a picture that nobody should decode."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def write_clip(
    path: Path,
    greys: Sequence[int],
    at_ms: Sequence[int] | None = None,
    codec: str = "libx264",
    kind: str | None = None,
) -> Path:
    """A clip of one plain grey frame after the other, 64 x 48; at_ms: when each is shown, by default every 100 ms."""
    beat = Fraction(1, 1000)
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = beat
        container.start_encoding()
        for number, grey in enumerate(greys):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey, np.uint8), format="rgb24")
            frame.pts, frame.time_base = (at_ms[number] if at_ms else 100 * number), beat
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """An mp4 that holds a second of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8_000)
        silence = np.zeros((1, 8_000), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 8_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def with_duration(matroska: bytes, seconds: float) -> bytes:
    """A Matroska file whose header claims another length (element 0x4489, a float in milliseconds)."""
    at = matroska.index(b"\x44\x89\x88") + 3
    return matroska[:at] + struct.pack(">d", seconds * 1000) + matroska[at + 8 :]


def grey_of(picture: Image.Image) -> int:
    """The mean of a picture."""
    return round(float(np.asarray(picture).mean()))
