"""From items, words or a photo to vectors, with a trained adapter: what `latefuse embed` and `latefuse search` load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latefuse.config_data import MediaLimits
from latefuse.data.dataset import Dataset
from latefuse.data.media import check_image
from latefuse.models import embedder
from latefuse.models.adapter_files import PEFT_CONFIG, AdapterError
from latefuse.models.backbone import load_placed
from latefuse.models.heads import HEAD
from latefuse.prompts import MediaRef
from latefuse.prompts.items import Item
from latefuse.serving.index import Header
from latefuse.tasks import item_vectors
from latefuse.tasks.catalogue import readable, stream
from latefuse.training.features import Features

Vectors = NDArray[np.float32]


class Embedder:
    """A backbone with an embedding adapter on it. digest: of the adapter, what an index is bound to."""

    def __init__(self, backbone: Path, adapter: Path, dataset: Path | None = None, cache: Path | None = None) -> None:
        """adapter: the output folder of `finetune`, or the adapter's own. Raises AdapterError, BackboneError."""
        folder = adapter if (adapter / HEAD).exists() or (adapter / PEFT_CONFIG).exists() else adapter / "adapter"
        self.backbone = load_placed(backbone)
        self.card = embedder.load(self.backbone, folder)
        self.digest = embedder.digest(folder)
        self.dataset = Dataset(dataset) if dataset is not None else None
        locate = self.dataset.media if self.dataset is not None else Path
        self.features = Features(self.backbone, locate, cache if self.dataset is not None else None)

    @property
    def header(self) -> Header:
        """What an index of the dataset's items is bound to."""
        assert self.dataset is not None
        assert self.card.embed is not None
        return Header(
            adapter=self.digest,
            backbone=self.backbone.digest,
            dataset=self.dataset.fingerprint,
            dim=self.card.embed.dim,
        )

    @property
    def items(self) -> int:
        """How many items the catalogue has."""
        assert self.dataset is not None
        return int(self.dataset.manifest["rows"]["items"])

    def batches(self, size: int) -> Iterator[tuple[list[str], list[Item]]]:
        """The catalogue of the dataset, `size` items at a time; items without any field to read are left out.

        `left_out` counts them.
        """
        assert self.dataset is not None
        assert self.card.embed is not None
        self.left_out = 0
        waiting: list[Item] = []
        for item in stream(self.dataset, self.card.embed, self.card.modality):
            if not readable(item, self.card.modality):
                self.left_out += 1
                continue
            waiting.append(item)
            if len(waiting) == size:
                yield [one.id for one in waiting], waiting
                waiting = []
        if waiting:
            yield [one.id for one in waiting], waiting

    def vectors(self, items: Sequence[Item], batch_size: int = 64) -> Vectors:
        """(n, dim) float32 unit vectors."""
        item_vectors.warm_items(items, self.backbone, self.features, progress=False)
        found = item_vectors.vectors(self.backbone, items, features=self.features, batch_size=batch_size)
        return np.asarray(found.numpy(), np.float32)

    def query(self, words: str = "", photo: Path | None = None) -> Vectors:
        """(1, dim): the vector of words, of a photo, or of both.

        Raises MediaError for a photo that can't be read, AdapterError for what this adapter does not read.
        """
        for given, modality in ((words.strip(), "text"), (photo, "image")):
            if given and modality not in self.card.modality:
                raise AdapterError(f"this adapter reads {', '.join(self.card.modality)}, not {modality}: ask otherwise")
        if not words.strip() and photo is None:
            raise AdapterError("nothing to look for: give words or a photo")
        media: tuple[MediaRef, ...] = ()
        if photo is not None:
            check_image(photo, MediaLimits())
            media = (MediaRef("image", str(photo.absolute())),)
        return self.vectors([Item(id="query", text=words, media=media)])
