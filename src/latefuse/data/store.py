"""Raw media into the dataset: inside the data root, within the limits, decoded once to the end, stored by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from latefuse import progress
from latefuse.config_data import MediaLimits
from latefuse.data.dataset import store_medium
from latefuse.data.errors import MediaError
from latefuse.data.media import check_image, check_video, open_image, read_frames

Key = tuple[str, str]
WORKERS = min(16, os.cpu_count() or 1)


@dataclass(frozen=True)
class Stored:
    """A medium in the dataset. content: equal for two pictures with the same pixels, whatever their files look like."""

    ref: str
    content: bytes


class Intake(Protocol):
    """What takes in media: the outcome of each key that was ever given to `take` is in `known`."""

    known: dict[Key, Stored | MediaError]

    def take(self, keys: Iterable[Key]) -> list[Key]:
        """Take in what is new among `keys` and return that."""


class MediaStore:
    """Takes in media by (modality, raw path); what was seen before costs nothing. Pillow and FFmpeg leave the GIL.

    beside: the beginning of a raw path -> the other root that the rest of it is below.
    """

    def __init__(self, root: Path, out: Path, limits: MediaLimits, beside: Mapping[str, Path] | None = None) -> None:
        self.known: dict[Key, Stored | MediaError] = {}
        self._root = Path(os.path.realpath(root))
        self._beside = {prefix: Path(os.path.realpath(other)) for prefix, other in (beside or {}).items()}
        self._out = out
        self._limits = limits

    @contextmanager
    def opened(self) -> Iterator[MediaStore]:
        """Within it `take` works: holds the threads and the progress bar."""
        with ThreadPoolExecutor(WORKERS) as self._pool, progress.bar(desc="media", unit=" files") as self._bar:
            yield self

    def take(self, keys: Iterable[Key]) -> list[Key]:
        """Check and store what is new among `keys`, in parallel, and return that; the outcome of each is in `known`."""
        new = [key for key in dict.fromkeys(keys) if key not in self.known]
        for key, outcome in zip(new, self._pool.map(self._outcome, new), strict=True):
            self.known[key] = outcome
            self._bar.update()
        return new

    def stamp(self, key: Key) -> str:
        """Size and time of the file behind a key, by which a changed one is told; "" where there is none."""
        try:
            found = self._find(key[1]).stat()
        except (MediaError, OSError):
            return ""
        return f"{found.st_size}-{found.st_mtime_ns}"

    def _outcome(self, key: Key) -> Stored | MediaError:
        try:
            return self._store(*key)
        except MediaError as error:
            return error

    def _store(self, modality: str, raw: str) -> Stored:
        path = self._find(raw)
        with_header = check_image if modality == "image" else check_video
        info = with_header(path, self._limits)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        content = bytes.fromhex(digest)
        if modality == "image":
            picture = open_image(path, self._limits)
            content = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).digest()
        else:
            # Asking for one frame decodes them all, which is what finds a clip that is torn in its middle.
            read_frames(path, 1, self._limits)
        return Stored(store_medium(self._out, path, info.extension, digest), content)

    def _find(self, raw: str) -> Path:
        for prefix, root in self._beside.items():
            if raw.startswith(prefix):
                return inside(root, raw.removeprefix(prefix))
        return inside(self._root, raw)


def inside(root: Path, raw: str) -> Path:
    """The real path of a raw medium. Raises MediaError where it leads out of `root` (.., absolute, symlink) or to
    nothing.
    """
    if "\0" in raw:
        raise MediaError("missing", "a path has no NUL character")
    if Path(raw).is_absolute():
        raise MediaError("outside-root", "an absolute path; media are named relative to the data root")
    path = Path(os.path.realpath(root / raw))
    if not path.is_relative_to(root):
        raise MediaError("outside-root", f"leads out of the data root {root}")
    if not path.is_file():
        raise MediaError("missing", "no such file" if not path.exists() else "not a file")
    return path
