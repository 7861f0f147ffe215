"""From scores to verdicts for one task of judgements: calibration, threshold and band, chosen on validation rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter

from latefuse.config_judge import Verdicts
from latefuse.data.errors import DataError
from latefuse.evaluation.calibration import Calibration, Floats, ScoresError, fit
from latefuse.evaluation.thresholds import Band, Threshold, ThresholdError, choose, choose_band, verdicts


@dataclass(frozen=True)
class Ruling:
    """What validation rows say of a judge on one task.

    share: of relevant rows there, all that a judge at chance knows. calibration, threshold, band: None where those rows
    allow none, and `told` says why.
    """

    share: float
    calibration: Calibration | None = None
    threshold: Threshold | None = None
    band: Band | None = None
    told: tuple[str, ...] = ()

    def probability(self, scores: ArrayLike) -> Floats:
        """(n,) the probability of relevance; the same for all rows where the scores say nothing."""
        if self.calibration is None:
            return np.full(len(np.asarray(scores)), self.share)
        return self.calibration.probability(scores)

    def verdicts(self, scores: ArrayLike) -> NDArray[np.str_]:
        """(n,) verdicts; at one half where no threshold could be chosen."""
        return verdicts(self.probability(scores), self.threshold.value if self.threshold else 0.5, self.band)


def rule(scores: ArrayLike, labels: ArrayLike, how: Verdicts, name: str) -> Ruling:
    """The ruling that validation rows allow: a judge at chance, or a promise out of reach, is told and ends nothing.

    scores: (n,) log-odds. labels: (n,) whether relevant. name: what is said of these rows.
    """
    truth = np.asarray(labels, bool)
    if not len(truth):
        return Ruling(0.5, told=(f"{name}: no rows, so that nothing can be chosen",))
    share = float(truth.mean())
    try:
        calibration = fit(scores, labels, name)
    except ScoresError as error:
        return Ruling(share, told=(str(error),))
    probabilities = calibration.probability(scores)
    try:
        threshold = choose(how.policy, probabilities, labels, name)
    except ThresholdError as error:
        return Ruling(share, calibration, told=(str(error),))
    if how.abstain is None:
        return Ruling(share, calibration, threshold)
    try:
        band = choose_band(how.abstain, probabilities, labels, threshold.value, name)
    except ThresholdError as error:
        return Ruling(share, calibration, threshold, told=(str(error),))
    return Ruling(share, calibration, threshold, band)


def write(rulings: Iterable[tuple[str, int, str, Ruling]], path: Path) -> None:
    """(arm, seed, task, ruling) as JSON."""
    rows = [{"arm": arm, "seed": seed, "task": task, **asdict(one)} for arm, seed, task, one in rulings]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def read(path: Path, arm: str, seed: int) -> dict[str, Ruling]:
    """Task -> ruling of one arm under one seed, of a file that `write` left.

    Raises DataError where the file is not there, holds something else, or has nothing for that arm.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        mine = [row for row in rows if (row.pop("arm"), row.pop("seed")) == (arm, seed)]
        found = {row.pop("task"): TypeAdapter(Ruling).validate_python(row) for row in mine}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; it is written by `latefuse step evaluate` of a judge") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no rulings of a judge: {str(error).splitlines()[0]}") from None
    if not found:
        raise DataError(f"{path}: nothing for {arm!r} under seed {seed}; take the file of the run that trained it")
    return found
