"""Classification sweep (paper §4.1.3): identities as classes, the classifier removed before evaluation.

    python sweeps/classification.py --data synthetic --out runs/classes --trials 8
    python sweeps/classification.py --data PATH --out runs/classes --trials 50 --concurrent 2
    python sweeps/classification.py --data PATH --out runs/arc --set loss.name=arcface
    python sweeps/classification.py --data PATH --out runs/losses --search loss.name=cross_entropy,arcface
    python sweeps/classification.py --data PATH --out runs/open --search predict.rule --then-online

It starts from the paper's Batch32. PATH, OUT and resuming as in metric.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `ray job submit` puts only sweeps/ on the path

from reid_core import command
from sweeps.search.space import classification_space
from sweeps.stages.command_line import make_parser


def main(arguments: list[str] | None = None) -> int:
    """Run the sweep; the exit status is 0 if there is a result."""
    options = make_parser(__doc__, real="batch32", synthetic=None).parse_args(arguments)
    from sweeps.stages.sweep import run_sweep  # Ray and torch, which --help and a mistyped flag do without

    return run_sweep("classification", classification_space, options)


if __name__ == "__main__":
    command.run(main)
