"""Does online augmentation make an epoch longer?

    python benchmarks/augmentation.py [--data-cpus 1] [--rounds 5] [--steps 40]

Epochs through the stream of a trial (Ray Data), batches of 32 at 256 px, with and without augmentation in turns. The
training step is a stand-in that sleeps, and so occupies no CPU: 1.2 times as long as the augmentation of a batch takes
on the CPUs that make batches, measured in the same turn. In the paper (§5.2), augmentation doubled an epoch's time.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of several processes would wait for each other
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray

from benchmarks.stream import CachedBatches, Photographs, draw_photographs, start_ray
from reid_core.model.place import Place
from reid_core.training.feed import Feed
from sweeps.machines.resources import Resources
from sweeps.trials.stream import stream_batches

SLOWER, BAR = 1.2, 1.05  # the step, as a multiple of the augmentation; the epoch with it ÷ without


def time_augmentation(photographs: Photographs, num_batches: int = 6) -> float:
    """Seconds that a CPU needs for a batch: reading, augmenting."""
    batches = CachedBatches(photographs)
    batches[0]
    seconds = []
    for step in range(num_batches):
        began_s = time.monotonic()
        batches[step]
        seconds.append(time.monotonic() - began_s)
    return median(seconds)


def time_epoch(photographs: Photographs, resources: Resources, step_s: float, num_steps: int) -> tuple[float, float]:
    """Seconds of an epoch that comes after another one in the same stream, and its share of waiting for data."""
    stream = stream_batches(photographs.plan.slice(0, 2 * num_steps), photographs.source, rank=0, resources=resources)
    with closing(stream) as batches:  # type: ignore[type-var]
        for _ in range(num_steps):
            next(batches)
            time.sleep(step_s)
        began_s, feed = time.monotonic(), Feed(batches)
        for _ in feed:
            time.sleep(step_s)
        return time.monotonic() - began_s, feed.measure(Place())["data_wait_share"]


def main(arguments: list[str] | None = None) -> int:
    """Measure; the status is 0 if the bar is reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-cpus", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="of an epoch")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    resources = Resources(workers=1, data_cpus_per_worker=options.data_cpus)
    ratios, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        online = draw_photographs(Path(folder), 2 * options.steps)
        plain = replace(online, source=replace(online.source, augment=None))
        start_ray(options.data_cpus)
        for _ in range(options.rounds):
            batch_s = time_augmentation(online) / options.data_cpus
            step_s = SLOWER * batch_s
            (with_s, waited), (without_s, _) = (
                time_epoch(each, resources, step_s, options.steps) for each in (online, plain)
            )
            print(
                f"augmentation {1000 * batch_s:.0f} ms a batch, step {1000 * step_s:.0f} ms: epoch {with_s:.2f} s "
                f"with ({waited:.1%} of it waiting), {without_s:.2f} s without",
                flush=True,
            )
            ratios.append(with_s / without_s)
            seconds.append((with_s, without_s))
        ray.shutdown()
    ratio, (value, peer) = median(ratios), (median(values) for values in zip(*seconds, strict=True))
    print(
        f"RESULT epoch_with_online_augmentation value={value:.2f} peer={peer:.2f} ratio={ratio:.3f} bar={BAR} "
        f"{'ok' if ratio <= BAR else 'short'}"
    )
    return 0 if ratio <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
