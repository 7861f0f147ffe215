"""From scores to verdicts for one task of judgements: calibration, threshold and band, chosen on validation rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latefuse.config_judge import Verdicts
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
