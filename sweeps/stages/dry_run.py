"""The dry run, `--plan`: what a sweep would do, and every check that the run makes; nothing is run."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from reid_core import cli
from reid_core.data.animals import positions_by_group
from reid_core.data.splits.describe import describe_parts
from reid_core.data.splits.parts import Parts
from reid_core.data.synthetic import resolve_data
from reid_core.data.table.findings import log_findings
from reid_core.metrics.advice import advise, expected_noise
from reid_core.model.reid_model import describe_model
from reid_core.training.batch_plan import count_images, count_steps
from sweeps.machines.connect import Machines
from sweeps.stages.checks.all_checks import check_sweep
from sweeps.stages.checks.data import pool_of_parts
from sweeps.stages.checks.models import describe_gpu_memory
from sweeps.stages.definition import Sweep
from sweeps.stages.flags import ConfirmSettings
from sweeps.stages.groups.claim import divide_sweep
from sweeps.stages.groups.run import print_dry_runs
from sweeps.stages.run_search import count_left

SPREAD_STD = 0.03  # of true scores between configurations, where nothing is known of them


def print_dry_run(sweep: Sweep, names: Sequence[str], out: Path, held: Path, machines: Machines) -> int:
    """Print split, space, trials, steps and what is needed of machines; the exit status.

    Args:
        sweep: Its definition.
        names: Of `--group`: each is a sweep of its own.
        out: Result folder; it is not made.
        held: Folder with its marks (`mirror.held_marks`).
        machines: What the trials would run on.

    Raises:
        UserError: If the run would end with it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = resolve_data(sweep.data, Path(scratch))
        print_one = partial(print_plan, root=root, machines=machines)
        if names:
            print_dry_runs(divide_sweep(out, sweep, names, root, held=held), print_one)
        else:
            print_one(sweep, out)
    print(f"{machines.describe()}\nit fits; nothing was run")
    return 0


def print_plan(sweep: Sweep, out: Path, *, root: Path, machines: Machines) -> None:
    """Check one sweep, and print what it would do."""
    checked = check_sweep(sweep, root, out, machines)
    log_findings(checked.findings)
    sweep, parts, base = checked.sweep, checked.parts, sweep.base
    pool = pool_of_parts(base, parts)
    steps = count_steps(count_images(pool, base.data.undersample_to), base.optim.batch_size)
    left, num_ended = count_left(sweep, checked.records), sum(record.has_ended for record in checked.records)
    num_trials, epochs = num_ended + left, sweep.space.most_epochs()
    print(f"base: {cli.describe_config(base)}\n")
    print(f"{describe_parts(parts)}\n")
    print(f"{describe_model(base, num_identities=len(pool.rows_of))}\n")
    print(f"{describe_gpu_memory(base, parts, machines.resources)}\n")
    print(f"search space\n{sweep.space.describe()}\n")
    if num_trials < sweep.num_trials:
        print(f"--trials {sweep.num_trials}: the space has {num_trials} configurations, and each is tried once")
    if num_ended:
        print(f"{num_ended} of {num_trials} trials have ended; what is left:")
    print(f"{left} trials × {epochs} epochs × {steps} steps (at batch size {base.optim.batch_size})")
    print(f"= {left * epochs} epochs, {left * epochs * steps} steps, if none is pruned")
    print(describe_confirmation(sweep.confirm, num_trials, parts))
    if sweep.then_online is not None:
        more = base.optim.epochs if sweep.then_online == "winner" else sweep.then_online
        print(f"then the best one is trained on for {more} epochs with online augmentation, as a trial of its own")
    print("\n".join(checked.notes))


def describe_confirmation(confirm: ConfirmSettings, num_trials: int, parts: Parts) -> str:
    """What confirmation costs, and whether the noise of these data makes it worth that."""
    if not confirm.num_trials:
        return "then nothing is confirmed (--confirm 0)"
    cost = f"then up to {confirm.num_trials} runs to the end confirm the best {confirm.num_best} and the preset"
    queries = parts.rows("thresholdSet")
    known_Q, group_Q = parts.known(queries), parts.group_N[queries]
    animal_Q = parts.animals(queries)
    num_known, num_new = [], []
    for _, positions in positions_by_group(group_Q):
        is_known, animal = known_Q[positions], animal_Q[positions]
        num_known.append(len(set(animal[is_known])))
        num_new.append(len(set(animal[~is_known])))
    noise_std = expected_noise(num_known, num_new)
    if np.isnan(noise_std) or num_trials < 2:
        return cost
    advice = advise(
        num_trials=num_trials,
        noise_std=noise_std,
        spread_std=SPREAD_STD,
        num_confirmed=confirm.num_best,
        num_runs=confirm.num_runs,
    )
    return (
        f"{cost}\nthe animals of thresholdSet alone make a score uncertain by {noise_std:.3f} (standard error); if "
        f"configurations differ by {SPREAD_STD:g}:\n{advice.describe()}"
    )
