"""The one place that decodes pictures and clips, with limits that are checked before anything is decoded.

Which decoder runs is decided by the first bytes of a file, never by its name: a file with a wrong extension is read as
what it is, and nothing (a playlist, a PostScript file) can smuggle in a decoder that opens other files. Everything here
is deterministic.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from latefuse.config_data import MediaLimits
from latefuse.data.errors import MediaError
from latefuse.data.frames import count, decode, header, within_pixels

__all__ = [
    "MediaError",
    "MediaInfo",
    "check_image",
    "check_video",
    "frame_indices",
    "open_image",
    "read_frames",
    "sniff",
]

# What Pillow's plug-ins raise where a damaged byte leads them astray.
DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError,
    struct.error, zlib.error,
)  # fmt: skip

Raw = Path | str | bytes

PICTURES = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "GIF": "gif", "WEBP": "webp", "BMP": "bmp", "TIFF": "tiff"}
BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")
SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpg"), (b"GIF8", "gif"), (b"BM", "bmp"),
    (b"II*\0", "tiff"), (b"MM\0*", "tiff"), (b"\x1aE\xdf\xa3", "mkv"), (b"FLV\x01", "flv"),
    (b"OggS", "ogv"), (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wmv"), (b"\0\0\x01\xba", "mpg"),
)  # fmt: skip


@dataclass(frozen=True)
class MediaInfo:
    """What the header of a medium says. frames and seconds: 1 and 0 for a still, 0 where a container does not say."""

    modality: Literal["image", "video"]
    extension: str
    width: int
    height: int
    frames: int = 1
    seconds: float = 0.0


def sniff(head: bytes) -> str | None:
    """The format ("png", "mp4" ...) that the first 256 bytes of a file announce, None if it is none of ours."""
    if head[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "avi"}.get(head[8:12])
    if head[4:8] in BOXES:
        return "mp4"
    if head[:1] == b"\x47" and head[188:189] == b"\x47":
        return "ts"
    return next((kind for mark, kind in SIGNATURES if head.startswith(mark)), None)


def check_image(raw: Raw, limits: MediaLimits | None = None) -> MediaInfo:
    """The header of a picture. Raises MediaError: missing, empty, too-many-bytes, not-an-image, broken, too-many-
    pixels, too-many-frames."""
    with _picture(raw, limits or MediaLimits()) as picture:
        return _picture_info(picture, "image")


def open_image(raw: Raw, limits: MediaLimits | None = None) -> Image.Image:
    """The whole picture as 8-bit RGB, turned upright by its EXIF, transparency on white, first frame of an animation.

    16-bit greys keep their upper 8 bits, CMYK and palettes are converted. Raises MediaError, "truncated" if bytes are
    missing.
    """
    with _picture(raw, limits or MediaLimits()) as picture:
        return _rgb(picture, upright=True)


def check_video(raw: Raw, limits: MediaLimits | None = None) -> MediaInfo:
    """The header of a clip or an animation. Raises MediaError.

    Its reasons: missing, empty, too-many-bytes, unknown-format, truncated, broken, unknown-codec, no-video, no-frames,
    too-many-pixels, too-many-frames, too-many-seconds (a header is believed, also a lying one).
    """
    limits = limits or MediaLimits()
    kind = _kind(raw, limits)
    if kind in PICTURES.values():
        with _picture(raw, limits) as picture:
            return _picture_info(picture, "video")
    with _opened(raw) as stream:
        found = header(stream, kind, limits)
    return MediaInfo("video", kind, found.width, found.height, found.frames, found.seconds)


def read_frames(raw: Raw, n: int, limits: MediaLimits | None = None) -> list[Image.Image]:
    """n frames of a clip or an animation as 8-bit RGB: centres of n equal intervals over the list of its real frames.

    Frames are counted, not timed, so a variable frame rate needs no special care; a clip with fewer than n frames
    repeats them; a still picture is a clip of one frame. Raises MediaError as check_video does, and "truncated" where
    fewer frames are there than an mp4 promises.
    """
    limits = limits or MediaLimits()
    kind = _kind(raw, limits)
    if kind in PICTURES.values():
        return _animation_frames(raw, n, limits)
    with _opened(raw) as stream:
        promised = count(stream, kind, limits)
        frames, total = decode(stream, kind, limits, set(frame_indices(promised, n)))
        if 0 < total != promised:
            # Some coded frames are never shown (VP9 and AV1 have such), some can't be decoded.
            frames, total = decode(stream, kind, limits, set(frame_indices(total, n)))
    if not total:
        raise MediaError("no-frames", "no frame could be decoded")
    return [frames[index] for index in frame_indices(total, n)]


def frame_indices(total: int, n: int) -> list[int]:
    """The centres of n equal intervals over `total` frames: floor((i + 1/2) * total / n), i = 0..n-1."""
    return [(2 * i + 1) * total // (2 * n) for i in range(n)]


def _kind(raw: Raw, limits: MediaLimits) -> str:
    """The format by signature, after the check of the size in bytes."""
    with _opened(raw) as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        head = stream.read(256)
    if size == 0:
        raise MediaError("empty", "0 bytes")
    if size > limits.max_bytes:
        raise MediaError("too-many-bytes", f"{size:,} bytes, the limit is {limits.max_bytes:,}")
    kind = sniff(head)
    if kind is None:
        raise MediaError("unknown-format", f"no picture or clip begins with {head[:12]!r}")
    return kind


@contextmanager
def _opened(raw: Raw) -> Iterator[BinaryIO]:
    if isinstance(raw, bytes):
        yield io.BytesIO(raw)
        return
    path = Path(raw)
    if not path.is_file():
        raise MediaError("missing", "no such file")
    try:
        stream = path.open("rb")
    except OSError as error:
        raise MediaError("unreadable", error.strerror or str(error)) from None
    with stream:
        yield stream


@contextmanager
def _picture(raw: Raw, limits: MediaLimits) -> Iterator[Image.Image]:
    """An opened picture of which only the header was read, within the limits."""
    kind = _kind(raw, limits)
    formats = [name for name, extension in PICTURES.items() if extension == kind]
    if not formats:
        raise MediaError("not-an-image", f"the file is {kind}")
    with _opened(raw) as stream, _pillow_errors(), Image.open(stream, formats=formats) as picture:
        within_pixels(picture.width, picture.height, limits)
        if (frames := getattr(picture, "n_frames", 1)) > limits.max_frames:
            raise MediaError("too-many-frames", f"{frames:,} frames, the limit is {limits.max_frames:,}")
        yield picture


@contextmanager
def _pillow_errors() -> Iterator[None]:
    try:
        yield
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError("too-many-pixels", str(error)) from None
    except UnidentifiedImageError:
        raise MediaError("broken", "the header can't be read") from None
    except DAMAGE as error:
        torn = "truncat" in str(error) or isinstance(error, EOFError)
        raise MediaError("truncated" if torn else "broken", f"{type(error).__name__}: {error}") from error


def _picture_info(picture: Image.Image, modality: Literal["image", "video"]) -> MediaInfo:
    frames = getattr(picture, "n_frames", 1) if modality == "video" else 1
    extension = PICTURES.get(picture.format or "", "png")
    return MediaInfo(modality, extension, picture.width, picture.height, frames)


def _rgb(picture: Image.Image, upright: bool) -> Image.Image:
    picture.load()
    if upright:
        picture = _upright(picture)
    if picture.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(np.asarray(picture))).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        canvas = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(canvas, coloured).convert("RGB")
    return picture.convert("RGB")


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except DAMAGE:
        # A damaged EXIF block says nothing about the way up; the pixels are sound.
        return picture


def _eight_bits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """16-bit greys to their upper byte; floats from 0..1 (or 0..255 where they go beyond 1) to 0..255."""
    if np.issubdtype(values.dtype, np.integer):
        wide = values.astype(np.int64)
        return np.clip(wide >> 8 if wide.max(initial=0) > 255 else wide, 0, 255).astype(np.uint8)
    values = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
    return np.asarray(np.clip(values * (255.0 if values.max(initial=0.0) <= 1.0 else 1.0), 0, 255).round(), np.uint8)


def _animation_frames(raw: Raw, n: int, limits: MediaLimits) -> list[Image.Image]:
    with _picture(raw, limits) as picture:
        wanted = frame_indices(getattr(picture, "n_frames", 1), n)
        frames = {}
        for index in sorted(set(wanted)):
            picture.seek(index)
            frames[index] = _rgb(picture.copy(), upright=True)
        return [frames[index] for index in wanted]
