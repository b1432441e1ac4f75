"""The trials of a sweep for people: records → trials.parquet, and a leaderboard as text. No Ray, no torch."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten
from reid_core.files.atomic import new_file
from reid_core.metrics.epoch_report import SCORE, SPEED
from reid_core.metrics.summary import format_interval, format_signed
from sweeps.results.journal import STEP, Record

HOURS = ("cpu_hours", "gpu_hours")
AGGREGATES = ("mean_of_groups", "pooled", "pooled_baks", "pooled_baus", "worst_group", "competition")
PAIRS = ("pairs_hits", "pairs_misses", "pairs_scored")
OF_GROUP = ("geo_mean", "baks", "baus")
GAIN = ("epoch0", "gain", "gain_low", "gain_high")  # of the objective (`gain.summarise_gain`)
BOUNDS = ("", "_low", "_high")  # a metric, and its 95 % interval


def write_trials(
    path: Path, records: Sequence[Record], base: TrialConfig, everything: Sequence[Record] | None = None
) -> None:
    """One row per trial: name, status, reason, objective, what was gained over epoch 0, epochs, seconds, lists with a
    number for each epoch (`images_per_s` that were trained, `data_wait_share` of that time, in [0, 1]), CPU- and
    GPU-hours, retries, metrics per group and over groups, each with its interval, and the whole configuration.

    The file's metadata holds the hours (`cpu_hours`, `gpu_hours`) of all of them, or of `everything` if that is given.
    """
    values = flatten(base)
    hours = {name: sum_hours(records if everything is None else everything, name) for name in HOURS}
    write_rows(path, [_row(record, base.threshold.objective, values) for record in records], hours)


def write_rows(path: Path, rows: Sequence[dict[str, Any]], hours: dict[str, float]) -> None:
    """Rows of trials, each with the keys it has, as Parquet; `hours` go into the file's metadata."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    in_all = {name: str(value) for name, value in hours.items()}
    with new_file(path) as part:
        pq.write_table(pa.table(columns).replace_schema_metadata(in_all), part)


def sum_hours(records: Sequence[Record], name: str) -> float:
    """`cpu_hours` or `gpu_hours` of all trials."""
    return sum(getattr(record, name) for record in records)


def describe_hours(records: Sequence[Record]) -> str:
    """What all trials have held, for people."""
    gpu, cpu = sum_hours(records, "gpu_hours"), sum_hours(records, "cpu_hours")
    return f"{gpu:.3g} GPU-hours, {cpu:.3g} CPU-hours" if gpu else f"{cpu:.3g} hours of logical CPUs"


def _column(values: list[Any]) -> pa.Array:
    """An Arrow column; what has several types (a mean of one or of three numbers) becomes text."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])


def _row(record: Record, objective: str, base: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial_id": record.name,
        "status": record.status if record.has_ended else "running",
        "reason": record.reason,
        "objective": record.objective,
        **{f"objective{end}": record.metrics.get(f"{objective}{end}") for end in BOUNDS[1:]},
        **gain_of(record),
        "epochs": len(record.reports),
        "seconds": record.seconds,
        **{name: [report.get(name) for report in record.reports] for name in SPEED},
        **{name: getattr(record, name) for name in HOURS},
        "retries": record.retries,
        "peak_memory_gb": max((each.get("peak_memory_gb", 0.0) for each in record.reports), default=0.0) or None,
        **{name: record.step.get(name) for name in STEP},
        "source": record.source,
    }
    for metric in (*(f"{metric}{end}" for metric in (*OF_GROUP, "gain") for end in BOUNDS), "epoch0", "threshold"):
        row |= {key: value for key, value in record.metrics.items() if key.startswith(f"{metric}.")}
    row |= {f"{name}{end}": record.metrics.get(f"{name}{end}") for name in AGGREGATES for end in BOUNDS}
    row |= {name: record.metrics.get(name) for name in PAIRS}
    # Not by `override`: the values of an infeasible trial may contradict each other.
    return row | {f"config.{key}": value for key, value in (base | record.parameters).items()}


def gain_of(record: Record) -> dict[str, float | None]:
    """What a trial's training added to its frozen backbone on `thresholdSet`.

    Returns:
        `epoch0`, the frozen backbone's objective, and `gain` over it with its interval, for a completed trial;
        `epoch0_cosine` and `gain_cosine`, the same of the cosine-only GEO_MEAN of the best epoch, for a pruned one too.
    """
    before, scores = record.epoch_zero.get(SCORE), [report[SCORE] for report in record.reports if SCORE in report]
    gain = None if before is None or not scores else max(scores) - before
    return {**{name: record.metrics.get(name) for name in GAIN}, "epoch0_cosine": before, "gain_cosine": gain}


def best_record(records: Sequence[Record]) -> Record | None:
    """The completed trial with the largest objective; the first of equals; None if none completed."""
    completed = [record for record in records if record.objective is not None]
    return max(completed, key=lambda record: record.objective or -math.inf, default=None)


def format_leaderboard(records: Sequence[Record], objective: str, count: int = 5) -> str:
    """The best trials with their searched values, and how many ended in which way.

    The first interval is of `objective`, the second one of the gain over the frozen backbone on the same queries.
    """
    completed = sorted((r for r in records if r.status == "completed"), key=lambda r: -(r.objective or 0.0))
    titles = f"{'trial':<12}{'objective':>10}  {'95 % interval':<15}{'gain':>8}  {'95 % interval':<17}{'epochs':>8}"
    lines = [f"{titles}  searched values"]
    for record in completed[:count]:
        values = "  ".join(f"{key}={_short(value)}" for key, value in record.parameters.items())
        span = format_interval(*(record.metrics.get(f"{objective}{end}") for end in BOUNDS[1:]))
        gain = f"{record.metrics['gain']:+.4f}" if "gain" in record.metrics else ""
        gained = f"{gain:>8}  {format_signed(record.metrics):<17}"
        score = f"{record.name:<12}{record.objective:>10.4f}  {span:<15}"
        lines.append(f"{score}{gained}{len(record.reports):>8}  {values}")
    counts = Counter(record.status if record.has_ended else "unfinished" for record in records)
    ended = ", ".join(f"{counts[status]} {status}" for status in sorted(counts))
    return "\n".join([*lines, *describe_epoch_zero(completed), f"{ended}; {describe_hours(records)}"])


def describe_epoch_zero(records: Sequence[Record]) -> list[str]:
    """One line on what the gains of completed trials are gains over; none where nothing was measured."""
    scores = sorted(record.metrics["epoch0"] for record in records if "epoch0" in record.metrics)
    if not scores:
        return []
    span = f"{scores[0]:.4f}" + (f" … {scores[-1]:.4f}" if scores[-1] > scores[0] else "")
    return [f"epoch 0, the frozen backbone: {span}; thresholdSet chose the trials, so gains are optimistic as well"]


def format_failures(records: Sequence[Record]) -> str:
    """One line per failed trial with its reason."""
    return "\n".join(f"{each.name} {each.status}: {each.reason}" for each in records if each.has_failed)


def describe_online(best: Record, online: Record) -> str:
    """One line: what the additional training of the best trial gave, on `thresholdSet`."""
    before = f"{best.name}: objective {best.objective:.4f}; trained on with online augmentation as {online.name}: "
    if online.objective is None:
        return before + f"{online.status} ({online.reason}); {best.name} stays the best"
    better = online.objective > (best.objective or 0.0)
    return before + f"{online.objective:.4f}; {online.name if better else best.name} is the best"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
