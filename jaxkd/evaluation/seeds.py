"""The interval of a mean gain over several seeds of training, with the spread of seeds and of pictures together."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from jaxkd.evaluation.bootstrap import SHARE, Interval


@dataclass(frozen=True)
class OverSeeds:
    """The gain in AP of several pairs of runs, each pair of one seed."""

    gains: tuple[float, ...]  # of each seed, from 0 to 1
    mean: Interval  # their mean, with the interval for other seeds and other pictures


def over_seeds(differences: Float[np.ndarray, "s r"], *, few: bool = False) -> OverSeeds:
    """The mean over seeds of differences in AP on resampled pictures.

    Two variances are added: that of the mean over seeds, and that of the mean under resampling of pictures. Student's t
    has the degrees of freedom of Welch (1947) and Satterthwaite (1946), where the resamples count as known exactly.
    The interval is nan where no resample has an object, or an AP is undefined.

    Args:
      differences: of two or more seeds; the first column is on the original pictures, see `bootstrap.draws`.
      few: whether too few pictures have objects for an interval.
    """
    gains = differences[:, 0]
    resampled = differences[:, 1:].mean(0)
    known = resampled[~np.isnan(resampled)]
    mean, unknown = float(gains.mean()), float("nan")
    if few or not known.size or np.isnan(mean):
        return OverSeeds(tuple(gains.tolist()), Interval(mean, unknown, unknown))
    seeds, pictures = gains.var(ddof=1) / len(gains), known.var()
    total = seeds + pictures
    freedom = (len(gains) - 1) * (total / seeds) ** 2 if seeds > 0 else np.inf
    half = float(stats.t.ppf(0.5 + SHARE / 200, freedom) * np.sqrt(total))
    return OverSeeds(tuple(gains.tolist()), Interval(mean, mean - half, mean + half))
