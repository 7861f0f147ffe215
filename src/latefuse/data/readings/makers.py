"""The maker that a recipe names, of whatever kind; each is imported only where it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from latefuse.config_data import MediaLimits
from latefuse.config_rank import Reader
from latefuse.data.readings.request import Maker


def build(
    reader: Reader, words: int, where: str, limits: MediaLimits, sees: bool, users: Callable[[], Iterable[str]]
) -> Maker:
    """The maker of `reader`. where: its section in the recipe. sees: whether it is for pictures. users: of the data,
    whose names are masked where a text leaves the house. Raises DataError or BackboneError for what is not there.
    """
    if reader.by == "extractive":
        from latefuse.data.readings.extractive import Extractive

        return Extractive(words)
    if reader.by == "classifier":
        from latefuse.data.readings.classifier import Classifier

        return Classifier(reader, words, where, limits)
    if reader.by == "model":
        from latefuse.data.readings.local import Local

        return Local(reader, words, where, limits, sees)
    from latefuse.data.readings.endpoint import Endpoint
    from latefuse.data.readings.mask import Mask

    mask = Mask([*reader.names, *users()]) if reader.mask else str
    return Endpoint(reader, words, where, limits, mask)
