"""`--plan`: what a sweep would do and whether the cluster can hold it; nothing is run."""

import argparse
import tempfile
from pathlib import Path

from reid_core import cli
from reid_core.model import describe_model
from reid_core.plan import count_images, count_steps, make_pool
from reid_core.prepare import animal_names, load_database, resolve_data, split_database
from reid_core.splits import describe_parts
from sweeps.connect import find_shortage
from sweeps.space import describe_space, most_epochs


def print_plan(sweep, options: argparse.Namespace) -> int:
    """Print split, space, trials, steps and resources of a `sweep.Sweep`; the status is 2 if they cannot be had."""
    base = sweep.base
    with tempfile.TemporaryDirectory() as scratch:
        database = load_database(resolve_data(sweep.data, Path(scratch)), skip_missing=sweep.skip_missing)
    parts = split_database(database, [None] * len(database), base)
    rows = parts.rows("training")
    pool = make_pool(base.data, animal_names(parts)[rows], rows, len(database))
    steps = count_steps(count_images(pool, base.data.undersample_to), base.optim.batch_size)
    epochs = most_epochs(sweep.space, base, sweep.fixed)
    print(f"base: {cli.describe_config(base)}\n")
    print(f"{describe_parts(parts.part_N, parts.identity_N, parts.group_N)}\n")
    print(f"{describe_model(base, num_identities=len(pool.rows_of))}\n")
    print(f"search space\n{describe_space(sweep.space, base, sweep.fixed)}\n")
    print(f"{sweep.num_trials} trials × {epochs} epochs × {steps} steps (at batch size {base.optim.batch_size})")
    print(f"= {sweep.num_trials * epochs} epochs, {sweep.num_trials * epochs * steps} steps, if none is pruned")
    if sweep.then_online is not None:
        more = base.optim.epochs if sweep.then_online == "winner" else sweep.then_online
        print(f"then the best one is trained on for {more} epochs with online augmentation, as a trial of its own")
    shortage = find_shortage(options)
    print(f"cannot start: {shortage}" if shortage else "it fits; nothing was run")
    return 2 if shortage else 0
