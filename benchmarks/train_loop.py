"""How many steps per second does the training loop make under Ray Train, beside a plain PyTorch loop?

    python benchmarks/train_loop.py [--epochs 10]

A real trial on a slot with one worker, batches in memory. After each of its epochs the same process trains as many
steps of the same network in a loop written by hand (timm, AdamW, clipped gradients, a checkpoint after each epoch), so
both take turns every few seconds. The trial's time runs from the end of one turn of the plain loop to the begin of the
next: reports, verdicts and checkpoints are in it. Medians over epochs; the processor time that the process spent is
printed beside them, for machines on which others are at work.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of several processes would wait for each other
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.local_ray import patch_on_import, start_ray

TURNS = "REID_TURNS_FILE"  # environment variable
WORKER = "sweeps.trials.worker"
BAR = 0.97
SETTINGS = {
    "data.variants": 1,  # no augmentation
    "data.oversample_to": 40,
    "model.backbone": "swin_micro_patch4_window4_64",
    "model.weights": "random",
    "model.unfrozen_stages": 4,
    "model.head": "linear",
    "model.embedding_dim": 64,
    "loss.name": "cross_entropy",
    "optim.batch_size": 16,
    "optim.clip_norm": 1.0,
    "match.matcher": "none",
}
IN_MEMORY = 8  # batches


class PlainLoop:
    """Trains the same network, written by hand."""

    def __init__(self, config: Any, batches: list[Any], num_identities: int, num_steps: int) -> None:
        import timm
        import torch

        self.batches, self.num_steps, self.clip_norm = batches, num_steps, config.optim.clip_norm
        backbone = timm.create_model(config.model.backbone, num_classes=0, img_size=config.data.image_px)
        head = torch.nn.Linear(backbone.num_features, config.model.embedding_dim)
        self.model = torch.nn.Sequential(backbone, head, torch.nn.Linear(config.model.embedding_dim, num_identities))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.optim.lr_head, weight_decay=config.optim.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        self.mean = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
        self.std = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)

    def epoch(self, folder: str) -> None:
        """As many steps as the trial's epoch has."""
        import torch

        self.model.train()
        losses = []
        for batch in islice(cycle(self.batches), self.num_steps):
            images = (torch.from_numpy(batch.pixels_BHWC).permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
            loss = torch.nn.functional.cross_entropy(self.model(images), torch.from_numpy(batch.identity_B))
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.detach())
        torch.stack(losses).mean().item()
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, f"{folder}/plain.pt")


def install() -> None:
    """Ray runs this in each of its processes."""
    patch_on_import(WORKER, patch)


def patch(worker: Any) -> None:
    """Batches come from memory, and an epoch is followed by the plain loop's."""
    held: list[Any] = []

    def stream_from_memory(rest: Any, source: Any, *, rank: int, resources: Any) -> Iterator[Any]:
        from reid_core.training.batches import local_batches

        held[:] = list(islice(local_batches(rest, source, rank=rank), IN_MEMORY))
        yield from islice(cycle(held), len(rest))

    worker.stream_batches = stream_from_memory
    worker.prefer_last = lambda trainer: take_turns(trainer, held)


def take_turns(trainer: Any, batches: list[Any]) -> Callable[[Any], dict[str, float]]:
    """In place of an evaluation: write down how long the epoch took, and run one of the plain loop."""
    from reid_core.metrics.epoch_report import SCORE

    plain: list[PlainLoop] = []
    began: list[tuple[float, float]] = []

    def evaluate(model: Any) -> dict[str, float]:
        if began:
            write_turn("ray", began.pop(), trainer.steps_per_epoch)
        if not plain:
            plain.append(PlainLoop(trainer.config, batches, model.num_identities, trainer.steps_per_epoch))
        before = read_clocks()
        with tempfile.TemporaryDirectory() as folder:
            plain[0].epoch(folder)
        write_turn("plain", before, trainer.steps_per_epoch)
        began.append(read_clocks())
        return {SCORE: float(len(trainer.history)), "loss_validating": 0.0}

    return evaluate


def read_clocks() -> tuple[float, float]:
    """Wall time, and processor time of all threads of this process."""
    return time.perf_counter(), time.process_time()


def write_turn(kind: str, began: tuple[float, float], steps: int) -> None:
    """One line of the file: steps per second of either clock."""
    rates = [steps / (now - then) for now, then in zip(read_clocks(), began, strict=True)]
    with Path(os.environ[TURNS]).open("a") as file:
        file.write(json.dumps([kind, *rates]) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Measure both; the status is 0 if the bar is reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="of each; the first ones are not counted")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[TURNS] = f"{folder}/turns.jsonl"
        measure(Path(folder), options.epochs)
        turns = [json.loads(line) for line in Path(os.environ[TURNS]).read_text().splitlines()]
    wall, processor = ratio_of(turns, 1, "steps/s"), ratio_of(turns, 2, "steps per second of processor time")
    print(f"ratio by wall time {wall[2]:.3f}, by processor time {processor[2]:.3f}")
    value, peer, ratio = wall
    print(
        f"RESULT train_loop_steps_per_second value={value:.2f} peer={peer:.2f} ratio={ratio:.3f} bar={BAR} "
        f"{'ok' if ratio >= BAR else 'short'}"
    )
    return 0 if ratio >= BAR else 1


def ratio_of(turns: list[list[Any]], column: int, unit: str) -> tuple[float, float, float]:
    """Median rates of both loops, and the median of neighbours' ratios: they share what else the machine is doing."""
    rates = {kind: [turn[column] for turn in turns if turn[0] == kind] for kind in ("ray", "plain")}
    rates["plain"] = rates["plain"][1:]  # as the trial's first epoch
    for kind, values in rates.items():
        print(f"{kind:<6} {unit}:", *(f"{rate:.2f}" for rate in values))
    ratio = median(one / other for one, other in zip(rates["ray"], rates["plain"], strict=True))
    return median(rates["ray"]), median(rates["plain"]), ratio


def measure(scratch: Path, num_epochs: int) -> None:
    """Run the trial."""
    import ray

    from reid_core.config.presets import tiny
    from reid_core.config.values import override
    from reid_core.data.synthetic import write_synthetic
    from reid_core.experiment.prepare import prepare
    from sweeps.machines.resources import Resources
    from sweeps.search.suggestion import Suggestion
    from sweeps.trials.context import SweepContext
    from sweeps.trials.tuning import run_fixed

    config = override(tiny(), SETTINGS | {"optim.epochs": num_epochs})
    prepare(write_synthetic(scratch / "data", scale=0.35), scratch / "cache", config)
    resources = Resources(workers=1)
    start_ray(resources, hook="benchmarks.train_loop.install")
    context = SweepContext(config, str(scratch / "out"), str(scratch / "cache"), resources)
    records = run_fixed([Suggestion(name="loop", parameters={}, only_train=num_epochs)], context)
    ray.shutdown()
    assert records["loop"].status == "completed", records


if __name__ == "__main__":
    sys.exit(main())
