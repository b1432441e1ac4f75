"""Is the loss the same with 32 images on one worker, 16 on each of two, and 16 at a time on one?

    python benchmarks/accumulation.py

Six steps of training in float32 (AdamW, clipped gradients, no dropout) on random images of eight animals: 1 × 32,
2 × 16 in two processes that exchange gradients by gloo, 1 × 16 with two parts per step (`optim.accumulate=2`), and both
together, 2 × 8 in two parts. Each step's loss comes after the updates before it, so equal losses mean equal gradients.
"""

import argparse
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.model.heads import NUM_SIDES
from reid_core.model.place import Place
from reid_core.model.reid_model import make_model
from reid_core.training.batches import Batch
from reid_core.training.trainer import Trainer

BAR = 1e-5
LOSSES = ("cross_entropy", "arcface", "triplet")
NUM_STEPS, BATCH, PX, NUM_ANIMALS = 6, 32, 32, 8
BASE = override(
    TrialConfig(),
    {
        "data.image_px": PX,
        "model.backbone": "swin_micro_patch4_window4_64",
        "model.weights": "random",
        "model.unfrozen_stages": 4,
        "model.embedding_dim": 32,
        "loss.miner": "all",  # semi-hard triplets are chosen by thresholds, which the last bit may decide
        "loss.scale": 16.0,
        "optim.batch_size": BATCH,
        "optim.precision": "float32",
        "optim.lr_head": 1e-3,
    },
)


def main(arguments: list[str] | None = None) -> int:
    """Print the largest difference of a step's loss for each way and loss; 0 if all are within the bar."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(
        arguments
    )
    torch.set_num_threads(1)
    whole = {name: train(name) for name in LOSSES}
    ways = {"two_parts": {name: train(name, accumulate=2) for name in LOSSES}, **train_on_two()}
    ok = True
    for way, losses in ways.items():
        for name in LOSSES:
            value = float(np.abs(losses[name] - whole[name]).max())
            print(f"{name:<14} {way:<22} losses", *(f"{loss:.6f}" for loss in losses[name]))
            ok &= value <= BAR
            print(
                f"RESULT loss_difference_{name}_{way} value={value:.2g} peer={whole[name].max():.4g} "
                f"ratio={value / whole[name].max():.2g} bar={BAR:g} {'ok' if value <= BAR else 'short'}"
            )
    return 0 if ok else 1


def train(name: str, *, accumulate: int | None = None, place: Place | None = None) -> np.ndarray:
    """Loss of each step, of the global batch; of this rank's images it trains on its share."""
    place = place or Place(precision="float32")
    config = override(BASE, {"loss.name": name, "optim.accumulate": accumulate})
    trainer = Trainer(config, make_model(config, num_identities=NUM_ANIMALS), place, steps_per_epoch=NUM_STEPS)
    trainer.wrapped.train()
    loss_S = torch.stack([trainer._train_step(batch)[0] for batch in draw_batches(place)]).numpy()
    return place.gather(loss_S[None] / trainer.loss_scale).mean(axis=0)


def draw_batches(place: Place) -> list[Batch]:
    """This rank's share of each global batch: four images of each animal, in any order."""
    rng, batches = np.random.default_rng(0), []
    coat_KHWC = rng.integers(0, 256, (NUM_ANIMALS, PX, PX, 3))
    for _ in range(NUM_STEPS):
        identity_B = rng.permutation(np.repeat(np.arange(NUM_ANIMALS), BATCH // NUM_ANIMALS))
        noise = rng.normal(scale=60, size=(BATCH, PX, PX, 3))
        pixels_BHWC = np.clip(coat_KHWC[identity_B] + noise, 0, 255).astype(np.uint8)
        size = BATCH // place.world_size
        mine = slice(place.rank * size, (place.rank + 1) * size)
        batches.append(Batch(pixels_BHWC[mine], identity_B[mine], np.zeros((size, NUM_SIDES), np.float32)))
    return batches


def train_on_two() -> dict[str, dict[str, np.ndarray]]:
    """The same in two processes, whole and in parts."""
    with tempfile.TemporaryDirectory() as folder:
        other = torch.multiprocessing.spawn(work, args=(2, folder), nprocs=1, join=False)  # rank 0
        losses = work(1, 2, folder)
        other.join()
    return losses


def work(rank: int, world_size: int, folder: str) -> dict[str, dict[str, np.ndarray]]:
    """One of the processes."""
    torch.set_num_threads(1)
    store, patience = f"file://{folder}/store", timedelta(minutes=5)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=patience)
    place = Place(rank, world_size, precision="float32", gather=gather, wrap=DistributedDataParallel)
    losses = {
        way: {name: train(name, accumulate=parts, place=place) for name in LOSSES}
        for way, parts in (("two_workers", None), ("two_workers_two_parts", 2))
    }
    dist.destroy_process_group()
    return losses


def gather(mine: np.ndarray) -> np.ndarray:
    """Both ranks' rows."""
    parts = [torch.empty_like(torch.from_numpy(mine)) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, torch.from_numpy(mine))
    return torch.cat(parts).numpy()


if __name__ == "__main__":
    sys.exit(main())
