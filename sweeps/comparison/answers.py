"""The answers of a row, as its `predictions.parquet` holds them, and what follows from them.

predictions.parquet → shares of all identities, curves over the threshold, improvement over the baseline (paper §6).
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from reid_core.data.animals import positions_by_group
from reid_core.metrics.geo_mean import Shares, compute_shares, pool
from reid_core.metrics.intervals import bootstrap, interval
from reid_core.scoring.thresholds import ScoredQueries, threshold_curve
from sweeps.comparison.figure_parts import Curve

THRESHOLDS = np.linspace(0, 1, 201)


def read_answers(predictions: Path, part: str) -> dict[str, np.ndarray]:
    """The columns of a query set, one entry per query."""
    table = pq.read_table(predictions, filters=[("part", "=", part)])
    column = {name: np.array(table[name].to_pylist(), dtype=object) for name in table.column_names}
    return column | {"known": column["known"].astype(bool), "probability": column["probability"].astype(float)}


def shares_on_test_set(predictions: Path) -> dict[str, Shares]:
    """Group → shares of its identities on `testSet`."""
    column = read_answers(predictions, "testSet")
    names = ("answer", "identity", "known")
    return {
        group: compute_shares(*(column[name][queries] for name in names))
        for group, queries in positions_by_group(column["group"])
    }


def improvement_interval(predictions: Path, baseline: Path) -> tuple[float, float] | None:
    """95 % interval of the improvement over a baseline on `testSet`, by paired resamples of the same animals.

    Returns:
        Both limits in per cent; None where the baseline's GEO_MEAN is 0 or undefined in some resample.
    """
    mine_R, base_R = (bootstrap(pool(shares_on_test_set(path))).geo_mean() for path in (predictions, baseline))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_R = mine_R / base_R
    if not np.isfinite(ratio_R).all():
        return None
    low, high = (100 * (ratio - 1) for ratio in interval(ratio_R))
    return low, high


def curves_of(predictions: Path) -> dict[str, Curve]:
    """Group → thresholds and the curves over them, from the answers on `thresholdSet`."""
    column, curves = read_answers(predictions, "thresholdSet"), {}
    for group, rows in positions_by_group(column["group"]):
        score_Q, candidate_Q, identity_Q, known_Q = (
            column[name][rows] for name in ("probability", "candidate", "identity", "known")
        )
        queries = ScoredQueries(score_Q, candidate_Q == identity_Q, identity_Q, known_Q)
        curves[group] = (THRESHOLDS, *threshold_curve(queries, THRESHOLDS))
    return curves
