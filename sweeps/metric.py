"""Metric-learning sweep (paper §4.1.4): triplet loss, Optuna search, ASHA pruning, one Ray Train run per trial.

    python sweeps/metric.py --data synthetic --out runs/demo --trials 8
    python sweeps/metric.py --data PATH --out runs/lynx --trials 50 --concurrent 2
    python sweeps/metric.py --data PATH --out runs/wide --search match.shortlist=10,50,150 --search predict.aggregate
    python sweeps/metric.py --data PATH --out runs/arc --set loss.name=arcface
    python sweeps/metric.py --data PATH --out runs/cheap --set data.variants=5 --then-online
    ray job submit --working-dir . -- python sweeps/metric.py --data PATH --out SHARED_FOLDER

PATH holds metadata.csv and the photographs in AnimalCLEF25's layout. OUT gets trials.parquet, best.yaml, best/ (the
model), predictions.parquet and environment.json; the same command continues a sweep that was interrupted.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `ray job submit` puts only sweeps/ on the path

from reid_core import command
from sweeps.search.space import metric_space
from sweeps.stages.command_line import make_parser


def main(arguments: list[str] | None = None) -> int:
    """Run the sweep; the exit status is 0 if there is a result."""
    options = make_parser(__doc__).parse_args(arguments)
    from sweeps.stages.sweep import run_sweep  # Ray and torch, which --help and a mistyped flag do without

    return run_sweep("metric", metric_space, options)


if __name__ == "__main__":
    command.run(main)
