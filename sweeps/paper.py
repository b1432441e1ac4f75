"""The paper's comparison (tables 6.1 and 6.2) on any data: every system as it is, without search, and the starter.

    python sweeps/paper.py --data synthetic --scale small --out runs/paper
    python sweeps/paper.py --data PATH --out runs/paper
    python sweeps/paper.py --data PATH --out runs/paper --rows batch32,batch64_warmup,metric \\
        --set model.backbone=mobilenetv2_100 --set model.weights=mobilenetv2_100.safetensors

Each row is one Ray Train trial with a preset's configuration; `starter` (frozen backbone, cosine, one threshold of 0.6)
always runs. Each row is scored on testSet once, and nothing is selected by it. OUT gets tables.md and .csv, figures/,
and rows/ROW/best, a model that `python -m reid_core.predict` takes. The same command continues what was interrupted.
`--set` holds for every row, except for a key whose value sets that row apart from most others.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `ray job submit` puts only sweeps/ on the path

from reid_core import command
from sweeps.comparison.rows import make_parser


def main(arguments: list[str] | None = None) -> int:
    """Run every row, and write tables and figures; the exit status is 0 if every row has a result."""
    options = make_parser(__doc__).parse_args(arguments)
    from sweeps.comparison.run import run_comparison  # Ray and torch, which --help and a mistyped flag do without

    return run_comparison(options)


if __name__ == "__main__":
    command.run(main)
