"""What the rows of a comparison gave, and how it is written: tables.md, .csv and figures/*.png.

configurations, records and metrics of the rows → files, and the text of the tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reid_core.config.parameters import TrialConfig
from reid_core.data.table.metadata import Reading
from reid_core.experiment.prepared import load_prepared
from sweeps.comparison.answers import improvement_interval
from sweeps.comparison.numbers import Metrics, RowMetrics
from sweeps.comparison.row_figures import draw_data, draw_schedules, draw_thresholds, draw_training
from sweeps.comparison.rows import BASELINE
from sweeps.comparison.tables import write_tables
from sweeps.results.journal import Record


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The rows, those that completed, and why the others did not."""

    configs: Mapping[str, TrialConfig]
    records: Mapping[str, Record]  # completed rows, with their reports
    metrics: RowMetrics  # of completed rows
    failures: Mapping[str, str]  # row → why it has no result


def write_outcome(outcome: Outcome, out: Path, root: Path, note: str, *, reading: Reading) -> str:
    """Write every table and figure; the text of tables.md, and where everything lies.

    Args:
        outcome: Of all rows.
        out: Result folder; `out/rows/ROW/predictions.parquet` has the answers of each completed row.
        root: Data folder.
        note: What a reader must know before the numbers.
        reading: As the data were prepared.
    """
    improved = {row: _with_improvement(out, row, metrics) for row, metrics in outcome.metrics.items()}
    rows: RowMetrics = {row: improved.get(row, {}) for row in outcome.configs}
    prepared = load_prepared(out / "cache")
    tables = write_tables(rows, out, note, failures=outcome.failures, findings=prepared.findings)
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    any_config = next(iter(outcome.configs.values()))
    drawn = [
        *draw_data(folder, root, any_config, out / "cache", reading=reading),
        *draw_training(folder, {row: record.reports for row, record in outcome.records.items()}),
        *draw_thresholds(folder, {row: predictions_of(out, row) for row in outcome.records}, outcome.metrics),
        *draw_schedules(folder, outcome.configs, prepared),
    ]
    paths = "\n".join(str(path) for path in (tables, out / "table_6_1.csv", out / "table_6_2.csv", *drawn))
    return f"{tables.read_text('utf-8')}\n{paths}"


def predictions_of(out: Path, row: str) -> Path:
    """The answers of a row."""
    return out / "rows" / row / "predictions.parquet"


def _with_improvement(out: Path, row: str, metrics: Mapping[str, Metrics]) -> Mapping[str, Metrics]:
    """The metrics with the interval of the improvement over the baseline, where there is one."""
    mine, base = predictions_of(out, row), predictions_of(out, BASELINE)
    if row == BASELINE or not mine.exists() or not base.exists():
        return metrics
    bounds = improvement_interval(mine, base)
    if bounds is None:
        return metrics
    gain = dict(zip(("improvement_percent_low", "improvement_percent_high"), bounds, strict=True))
    return {**metrics, "testSet": {**metrics["testSet"], **gain}}
