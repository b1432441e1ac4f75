"""Does a sweep survive whatever is killed under it, at any moment?

    python benchmarks/kills.py [--seed 0] [--kinds worker,disk] [--scratch FOLDER]

Three short sweeps (one trial at a time, two workers in each, two trials at a time) are killed thirty times between them
and continued with the same command each time; it takes about an hour of two idle cores. A seeded generator chooses
kinds and moments. A moment is a count of events (lines printed, checkpoints, reports, ended trials), never a time.

kinds that end a session: everything (kill -9 of the command and all its Ray processes), command (alone), cluster
(raylet and gcs), interrupt (Ctrl-C), disk (full until the session has ended; needs the right to mount a tmpfs).
kinds that a session must outlive: worker (of Ray Train), checkpoint (a worker while it writes one), data (a task of Ray
Data), store (of pairs), trial driver (the Tune process), controller (of a slot's Train run), slot (with its desk).

After each session: no ended trial is lost or changed, none is trained again, a running one keeps its parameters, its
epochs and its time. At the end: exit status 0; each trial is once in trials.parquet, and completed or pruned; its
epochs are 1 … n; trials stopped where ASHA would have stopped them had nothing been killed (one trial at a time), with
the scores of a sweep that nothing killed; no pair was scored twice; no process is left, and no shared memory.
"""

import argparse
import logging
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of several processes would wait for each other
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.killed_sweep import ENDING, KilledSweep, Moment, Plan, mount_small_disk, unmount
from reid_core.data.synthetic import write_synthetic

KINDS = {
    **{"everything": 4, "command": 3, "cluster": 2, "interrupt": 3, "disk": 2},
    **{"worker": 3, "checkpoint": 3, "data": 2, "store": 2, "trial driver": 2, "controller": 2, "slot": 2},
}
SWEEPS = ((1, 1), (2, 1), (1, 2))  # workers per trial, trials at a time
EVENTS = {"line": 22, "checkpoint": 4, "report": 4, "end": 1}  # most of them to wait for
logger = logging.getLogger("kills")


def main(arguments: list[str] | None = None) -> int:
    """Kill, continue, count; the status is 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="only these kinds, separated by commas")
    parser.add_argument("--scratch", type=Path, help="keep data, sweeps and logs here")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    chosen = {kind: KINDS[kind] for kind in (options.kinds.split(",") if options.kinds else KINDS)}
    with tempfile.TemporaryDirectory() as folder:
        scratch = options.scratch or Path(folder)
        scratch.mkdir(parents=True, exist_ok=True)
        disk = mount_small_disk(scratch / "disk")
        try:
            sweeps = run_sweeps(scratch, plan_kills(chosen, random.Random(options.seed)), has_disk=disk is not None)
        finally:
            if disk is not None:
                shutil.rmtree(scratch / "kept", ignore_errors=True)
                shutil.copytree(disk, scratch / "kept") if options.scratch else None
                unmount(disk)
    return report(sweeps, chosen)


def plan_kills(counts: dict[str, int], rng: random.Random) -> list[list[list[Plan]]]:
    """For each sweep its sessions, for each session its kills: some that it outlives, then one that ends it."""
    ending = [kind for kind, count in counts.items() if kind in ENDING for _ in range(count)]
    outlived = [kind for kind, count in counts.items() if kind not in ENDING for _ in range(count)]
    rng.shuffle(ending)
    rng.shuffle(outlived)
    sessions: list[list[str]] = [[kind] for kind in ending] or [[]]
    for number, kind in enumerate(outlived):
        order = [*sessions[number % len(sessions) :], *sessions[: number % len(sessions)]]
        next((each for each in order if _fits(kind, each)), order[0]).insert(0, kind)
    plans = [[Plan(kind, choose_moment(kind, rng)) for kind in kinds] for kinds in sessions]
    return [_end_in_the_test(plans[number :: len(SWEEPS)]) for number in range(len(SWEEPS))]


def _end_in_the_test(plans: list[list[Plan]]) -> list[list[Plan]]:
    """The last session of a sweep is killed when the test set is being used, if it is to be killed without notice."""
    plans = sorted(plans, key=lambda kills: kills[-1].kind in ("everything", "command"))
    if plans and plans[-1][-1].kind in ("everything", "command"):
        plans[-1][-1] = Plan(plans[-1][-1].kind, Moment("use", 1))
    return plans


def _fits(kind: str, session: Sequence[str]) -> bool:
    """A lost store does not come back in a session, and a trial is tried again only so often."""
    return kind not in session and sum(other not in ENDING for other in session) < 2


def choose_moment(kind: str, rng: random.Random) -> Moment:
    """When to kill, counted from the kill before; what needs a running trial waits for one by itself."""
    event = rng.choice([event for event in EVENTS if kind in ENDING or event not in ("line", "end")])
    return Moment(event, rng.randint(1, EVENTS[event]))


def run_sweeps(scratch: Path, plans: list[list[list[Plan]]], *, has_disk: bool) -> list[KilledSweep]:
    """The killed sweeps, each begun with the trials of one that nothing killed."""
    data = write_synthetic(scratch / "data", scale=0.35)
    sweeps, references = [], {}
    for number, ((workers, concurrent), sessions) in enumerate(zip(SWEEPS, plans, strict=True)):
        if not sessions:
            continue
        if workers not in references:
            references[workers] = KilledSweep(scratch, f"reference-{workers}", data, workers=workers)
            references[workers].finish()
        place = scratch / "disk" if has_disk else scratch
        sweeps.append(
            KilledSweep(
                place, f"sweep-{number}", data, workers=workers, concurrent=concurrent, reference=references[workers]
            )
        )
        for kills in sessions:
            sweeps[-1].run_session([kill for kill in kills if kill.kind != "disk" or has_disk])
        sweeps[-1].finish()
        logger.info("sweep %d: %s", number, sweeps[-1].describe())
    return sweeps


def report(sweeps: Sequence[KilledSweep], chosen: dict[str, int]) -> int:
    """Print the table per kind and what was reached."""
    kills = [kill for sweep in sweeps for kill in sweep.kills]
    print(f"\n{'kind':<14}{'kills':>7}{'resumed':>9}{'lost':>6}{'repeated':>10}")
    for kind in chosen:
        mine = [kill for kill in kills if kill.kind == kind]
        resumed, lost, repeated = (
            sum(k.resumed for k in mine),
            sum(len(k.lost) for k in mine),
            sum(len(k.repeated) for k in mine),
        )
        print(f"{kind:<14}{len(mine):>7}{resumed:>9}{lost:>6}{repeated:>10}")
    for problem in [problem for sweep in sweeps for problem in sweep.problems]:
        print("problem:", problem)
    planned, resumed = sum(chosen.values()), sum(kill.resumed for kill in kills)
    harmed = sum(len(kill.lost) + len(kill.repeated) for kill in kills)
    num_problems = sum(len(sweep.problems) for sweep in sweeps)
    num_trials, num_once = (sum(getattr(sweep, name) for sweep in sweeps) for name in ("num_ended", "num_once"))
    reached = [
        ("kills_resumed", resumed, planned, 1, resumed == planned),
        ("finished_trials_lost_or_repeated", harmed, num_trials, 0, not harmed),
        ("trials_once_in_parquet", num_once, num_trials, 1, 0 < num_once == num_trials),
        ("problems_of_any_kind", num_problems, len(kills), 0, not num_problems),
    ]
    for claim, value, peer, bar, is_ok in reached:
        ratio = value / peer if peer else 0.0
        print(f"RESULT {claim} value={value} peer={peer} ratio={ratio:.2f} bar={bar:.2f} {'ok' if is_ok else 'short'}")
    return 0 if all(is_ok for *_, is_ok in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
