"""A picture described by the labels that an image classifier gives it: words of its list, no sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageClassification

from latefuse.config_data import MediaLimits
from latefuse.config_rank import Reader
from latefuse.data.errors import DataError
from latefuse.data.media import open_image
from latefuse.data.readings.request import Request, digest_of
from latefuse.data.store import WORKERS
from latefuse.models import folder as folders
from latefuse.models.folder import FROM_FOLDER, must_be_complete
from latefuse.models.named import located
from latefuse.models.towers import transform
from latefuse.progress import no_library_bars

BATCH = 32
NUMBERED = re.compile(r"\s*(\d+)[\s:,.;)]+(.*\S)")
NAMELESS = re.compile(r"LABEL_\d+")


class Classifier:
    """The labels of a picture, likeliest first, as many whole ones as `words` allow, one at least.

    Labels less likely than chance (1 / their number) are left out. The list is the file of `labels`, else that of the
    model; raises DataError for a model that has only LABEL_0, LABEL_1 ... and for a file that does not fit.
    """

    version = "v1"

    def __init__(self, reader: Reader, words: int, where: str, limits: MediaLimits) -> None:
        self._folder = located(str(reader.model), f"{where}.model")
        folders.check(self._folder, tokenizer=False)
        self._config = AutoConfig.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)
        self.labels = labels_of(self._config, reader.labels, where)
        self.name = f"classifier {self._folder.name}@{folders.digest(self._folder)[:12]}"
        listed = digest_of("\n".join(self.labels))
        self.method = f"{self.name} {self.version}, {words} words, labels {listed}"
        self.calls, self._words, self._limits = 0, words, limits

    def reads(self, request: Request) -> int:
        """A picture has no documents."""
        return 0

    def key(self, request: Request) -> str:
        """The picture by its content, with the method."""
        return request.digest(self.method)

    def make(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """(place, text) of every request, in order. Pictures are decoded side by side, and judged in batches."""
        with ThreadPoolExecutor(WORKERS) as pool:
            for start in range(0, len(requests), BATCH):
                batch = requests[start : start + BATCH]
                pictures = list(pool.map(self._open, batch))
                self.calls += len(batch)
                for place, shares in enumerate(self._shares(pictures).tolist(), start):
                    yield place, self._told(shares)

    def notes(self) -> list[str]:
        """None."""
        return []

    def spent(self) -> str:
        """How many pictures it saw."""
        return f"{self.calls:,} calls"

    def _open(self, request: Request) -> Any:
        assert request.picture is not None
        return open_image(request.picture, self._limits)

    @torch.no_grad()
    def _shares(self, pictures: Sequence[Any]) -> torch.Tensor:
        """(n, labels) probabilities, rounded so that the size of a batch decides nothing."""
        model, processor = self._loaded
        pixels = processor(list(pictures), return_tensors="pt")["pixel_values"].to(model.device)
        return model(pixels).logits.float().softmax(-1).double().round(decimals=4).cpu()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with no_library_bars():
            model, told = AutoModelForImageClassification.from_pretrained(
                self._folder, dtype=torch.float32, **FROM_FOLDER
            )
        must_be_complete(self._folder, told)
        return model.eval().to(device), transform(self._folder, self._config, None)

    def _told(self, shares: Sequence[float]) -> str:
        order = sorted(range(len(shares)), key=lambda label: (-shares[label], label))
        chosen, room = [self.labels[order[0]]], self._words - len(self.labels[order[0]].split())
        for label in order[1:]:
            room -= len(self.labels[label].split())
            if shares[label] <= 1 / len(shares) or room < 0:
                break
            chosen.append(self.labels[label])
        return ", ".join(chosen)


def labels_of(config: Any, file: str | None, where: str) -> list[str]:
    """The labels in the order of the classes. Raises DataError."""
    if file is None:
        labels = [str(config.id2label[place]) for place in range(config.num_labels)]
        if all(NAMELESS.fullmatch(label) for label in labels):
            raise DataError(
                f"{where}.model: the classifier has no words for its {len(labels):,} classes (LABEL_0 ...); give them "
                f"with {where}.labels, a file with one label a line in their order"
            )
        return labels
    path = located(str(Path(file).parent), f"{where}.labels") / Path(file).name
    if not path.is_file():
        raise DataError(f"{where}.labels: no file {path}")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8; save it as UTF-8") from None
    found = [NUMBERED.fullmatch(line) for line in lines]
    if all(match and int(match[1]) == place for place, match in enumerate(found)):
        lines = [match[2] for match in found if match]
    if len(lines) != config.num_labels:
        raise DataError(f"{path}: {len(lines):,} labels, the classifier has {config.num_labels:,} classes")
    return lines
