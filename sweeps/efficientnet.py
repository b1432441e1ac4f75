"""EfficientNet-B4 sweep (paper §4.2), in both of the paper's attempts.

    python sweeps/efficientnet.py --data synthetic --out runs/direct --trials 8
    python sweeps/efficientnet.py --data PATH --out runs/direct --trials 50
    python sweeps/efficientnet.py --data PATH --out runs/frozen --trials 50 --attempt frozen

direct: a classifier of all animals, whose top probability is rejected below a threshold. frozen: a new head on the
frozen body, scored through WildFusion. PATH, OUT and resuming as in metric.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `ray job submit` puts only sweeps/ on the path

from reid_core import command
from reid_core.errors import UserError
from sweeps.search.space import efficientnet_space
from sweeps.stages.command_line import make_parser

ATTEMPTS = {"direct": "efficientnet_b4", "frozen": "efficientnet_b4_frozen"}  # presets


def main(arguments: list[str] | None = None) -> int:
    """Run the sweep; the exit status is 0 if there is a result.

    Raises:
        UserError: If --attempt, which names a preset, comes with another whole configuration.
    """
    parser = make_parser(__doc__, real=ATTEMPTS["direct"], synthetic=None)
    parser.add_argument("--attempt", choices=ATTEMPTS, help="which of the paper's attempts (default direct)")
    options = parser.parse_args(arguments)
    if options.attempt and (options.preset or options.config):
        raise UserError("--attempt names a preset itself; give it, or --preset, or --config")
    if options.attempt:
        options.real_preset = ATTEMPTS[options.attempt]
    from sweeps.stages.sweep import run_sweep  # Ray and torch, which --help and a mistyped flag do without

    return run_sweep("efficientnet", efficientnet_space, options)


if __name__ == "__main__":
    command.run(main)
