"""Clips through FFmpeg: one forced demuxer, limits before decoding, frames counted and not timed.

Only media.py uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image

from latefuse.config_data import MediaLimits
from latefuse.data.errors import MediaError

DEMUXERS = {
    "mp4": "mp4", "mkv": "matroska", "avi": "avi", "flv": "flv",
    "ts": "mpegts", "mpg": "mpeg", "ogv": "ogg", "wmv": "asf",
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a container says of its video: frames 0 where it does not say (only mp4 says it exactly)."""

    width: int
    height: int
    frames: int
    seconds: float


def header(stream: BinaryIO, kind: str, limits: MediaLimits) -> Header:
    """The header of a clip, within the limits. Raises MediaError."""
    with _container(stream, kind, limits) as (_, found):
        return found


def count(stream: BinaryIO, kind: str, limits: MediaLimits) -> int:
    """The number of coded frames, without decoding. Raises MediaError where there are none, too many, or not all."""
    found = 0
    with _container(stream, kind, limits) as (container, told):
        for packet in container.demux(video=0):
            found += packet.size > 0
            _within_frames(found, limits)
    if found == 0:
        raise MediaError("no-frames", "the video stream is empty")
    if found < told.frames:
        raise MediaError("truncated", f"{found} of {told.frames} frames are there")
    return found


def decode(stream: BinaryIO, kind: str, limits: MediaLimits, wanted: set[int]) -> tuple[dict[int, Image.Image], int]:
    """The wanted frames by index as RGB, upright, and how many frames the clip really has."""
    frames: dict[int, Image.Image] = {}
    total = 0
    with _container(stream, kind, limits) as (container, _):
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            within_pixels(frame.width, frame.height, limits)
            if total in wanted:
                picture = frame.to_image()
                frames[total] = picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
            total += 1
            _within_frames(total, limits)
    return frames, total


def within_pixels(width: int, height: int, limits: MediaLimits) -> None:
    """Raises MediaError for a picture or a frame that is too large."""
    if width * height > limits.max_pixels:
        raise MediaError("too-many-pixels", f"{width:,} x {height:,} pixels, the limit is {limits.max_pixels:,}")


def _within_frames(frames: int, limits: MediaLimits) -> None:
    if frames > limits.max_frames:
        raise MediaError("too-many-frames", f"{frames:,} frames or more, the limit is {limits.max_frames:,}")


@contextmanager
def _container(stream: BinaryIO, kind: str, limits: MediaLimits) -> Iterator[tuple[Any, Header]]:
    """An opened clip whose header lies within the limits, as (PyAV container, header)."""
    import av

    if kind == "mp4" and not _has_index(stream):
        raise MediaError("truncated", "the index of the file is missing; was the recording or the download cut short?")
    stream.seek(0)
    try:
        with av.open(stream, "r", format=DEMUXERS[kind], metadata_errors="replace") as container:
            if not container.streams.video:
                raise MediaError("no-video", "the file has no video stream")
            yield container, _header(container, kind, limits)
    except MediaError:
        raise
    except av.error.EOFError:
        raise MediaError("no-frames", "the file ends before its first frame") from None
    except av.error.FFmpegError as error:
        raise MediaError("broken", f"{type(error).__name__}: {error.strerror}") from None
    except (ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise MediaError("broken", f"{type(error).__name__}: {error}") from None


def _header(container: Any, kind: str, limits: MediaLimits) -> Header:
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise MediaError("unknown-codec", "no decoder knows this video stream")
    lengths = [float(stream.duration * stream.time_base)] if stream.duration and stream.time_base else []
    lengths += [container.duration / 1_000_000] if container.duration else []
    found = Header(stream.width, stream.height, stream.frames if kind == "mp4" else 0, max(lengths, default=0.0))
    within_pixels(found.width, found.height, limits)
    if found.width < 1 or found.height < 1:
        raise MediaError("no-frames", "the video stream has no size")
    if found.seconds > limits.max_seconds:
        told = f"{found.seconds:,.0f} s by its header, the limit is {limits.max_seconds:,.0f}"
        raise MediaError("too-many-seconds", told)
    _within_frames(found.frames, limits)
    return found


def _has_index(stream: BinaryIO) -> bool:
    """Whether an mp4 has its `moov` (or a fragment) whole. A box: 4 bytes size, 4 bytes name, maybe 8 bytes size."""
    size, at = stream.seek(0, 2), 0
    while at + 8 <= size:
        stream.seek(at)
        head = stream.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        length = length or size - at
        if head[4:8] in (b"moov", b"moof"):
            return at + length <= size
        if length < 8:
            return True
        at += length
    return False
