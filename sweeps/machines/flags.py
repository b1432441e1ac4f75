"""Flags of every command that runs trials: what they run on, and whether they are run at all. No Ray, no torch.

flags → `Resources`, or what is wrong with them.
"""

import argparse
import math
from pathlib import Path

from reid_core.errors import UserError
from sweeps.machines.limits import parse_time
from sweeps.machines.resources import PATIENCE_S, Resources


def add_resource_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that runs trials on Ray: what they run on, and whether they are run at all."""
    parser.add_argument("--concurrent", type=int, default=1, help="trials at a time (default 1)")
    parser.add_argument("--workers", type=int, default=2, help="Ray Train workers per trial (default 2)")
    parser.add_argument("--gpus-per-worker", type=float, help="default: 1 where Ray finds GPUs, else 0")
    parser.add_argument("--data-cpus", type=float, help="CPUs per worker for augmentation (default 1; 4 with GPUs)")
    parser.add_argument(
        "--give-up-after",
        default=f"{PATIENCE_S / 3600:g}h",
        metavar="TIME",
        help="end the sweep with an error once CPUs or GPUs that it needs were not to be had for this time, as 30m or "
        "12h, and nothing moved (default %(default)s; 0: wait for ever); what is waited for is logged after a minute",
    )
    parser.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto: continue what OUT holds; never: refuse an OUT that holds a sweep (default auto)",
    )
    parser.add_argument(
        "--share-store",
        type=Path,
        metavar="FOLDER",
        help="keep the match scores of pairs here, for this sweep and the ones after it (default OUT/store)",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="print what would be done, make every check that the run makes, and run nothing",
    )


def make_resources(options: argparse.Namespace, *, num_gpus: float) -> Resources:
    """Resources from the flags, with defaults that depend on whether there are GPUs.

    Raises:
        UserError: If a number is too small, or GPUs cannot be divided like this.
    """
    gpus = options.gpus_per_worker if options.gpus_per_worker is not None else float(num_gpus > 0)
    patience = options.give_up_after.strip()
    data_cpus = options.data_cpus if options.data_cpus is not None else (4.0 if gpus else 1.0)
    for flag, value, least in (
        ("--concurrent", options.concurrent, 1),
        ("--workers", options.workers, 1),
        ("--gpus-per-worker", gpus, 0),
        ("--data-cpus", data_cpus, 0.1),
    ):
        if not least <= value < math.inf:
            raise UserError(f"{flag} {value}: must be at least {least}, and finite")
    if gpus % 1 and gpus > 1:
        raise UserError(f"--gpus-per-worker {gpus:g}: above 1 only whole GPUs can be had")
    if gpus % 1 and options.workers > 1:
        raise UserError("--gpus-per-worker below 1 needs --workers 1: two workers cannot share a GPU (NCCL)")
    return Resources(
        concurrent=options.concurrent,
        workers=options.workers,
        gpus_per_worker=gpus,
        data_cpus_per_worker=data_cpus,
        patience_s=parse_time(patience, flag="--give-up-after") if patience != "0" else None,
    )
