"""How much faster are evaluation and training from kept activations, with one stage of a Swin unfrozen?

    python benchmarks/frozen_activations.py

A Swin of MegaDescriptor-L's geometry (2, 2, 18, 2 blocks), narrow enough for two CPU threads, random weights and
pixels. Evaluation: `embed.embed` with and without kept activations. Training: one epoch (forward, backward, step) from
a bank of variants against the whole forward on images augmented online. Building the bank is printed, not counted: it
is paid once per sweep. Every round runs both sides of both claims; medians of seconds.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "2"  # before torch: this compares work on both cores
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
import torch
from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer

from reid_core.activations import KeptActivations
from reid_core.batches import Source, local_batches, make_source
from reid_core.boundary import KeptBatch, activation_batches, build_activations
from reid_core.config import TrialConfig, override
from reid_core.embed import embed
from reid_core.images import ImageCache, cache_schema, write_arrow
from reid_core.loss import Loss, make_loss
from reid_core.model import ReidModel, make_model
from reid_core.optim import make_optimizer
from reid_core.plan import make_plan, make_pool
from reid_core.variants import PixelSource, build_variants

IMAGES_PER_IDENTITY = 4
BARS = {"embed_kept_activations": 5.0, "train_kept_activations": 3.0}


@register_model
def swin_narrow_patch4_window4_128(pretrained: bool = False, **kwargs) -> torch.nn.Module:
    """Swin-L's depths and doubling widths, from 32 channels at 128 px."""
    kwargs = {key: value for key, value in kwargs.items() if not key.startswith("pretrained_") and key != "cache_dir"}
    sizes = {"patch_size": 4, "window_size": 4, "embed_dim": 32, "depths": (2, 2, 18, 2), "num_heads": (2, 4, 8, 16)}
    return SwinTransformer(**{**sizes, **kwargs})


def configure() -> TrialConfig:
    """One stage unfrozen, a triplet loss; augmentation as in the presets."""
    settings = {
        "data.image_px": 128,
        "data.variants": 3,
        "data.oversample_to": 12,
        "data.images_per_identity": IMAGES_PER_IDENTITY,
        "model.backbone": "swin_narrow_patch4_window4_128",
        "model.weights": "random",
        "model.unfrozen_stages": 1,
        "model.embedding_dim": 256,
        "model.keep_activations": True,
        "optim.epochs": 1,
    }
    return override(TrialConfig(), settings)


def write_images(path: Path, num_images: int, image_px: int) -> ImageCache:
    """An image cache of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, num_images * image_px * image_px * 3, dtype=np.uint8)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(pixels), image_px * image_px * 3)
    keys = pa.array([f"{row:032x}" for row in range(num_images)])
    table = pa.table([keys, pa.nulls(num_images, pa.string()), rows], schema=cache_schema(image_px))
    write_arrow(path, [table], table.schema)
    return ImageCache(path)


def make_sides(config: TrialConfig, cache: ImageCache, folder: Path) -> tuple[pa.Table, Source, pa.Table, Source]:
    """Plan and source offline (a bank of variants), and online with the same number of images an epoch."""
    code_N = np.arange(len(cache)) // IMAGES_PER_IDENTITY
    both: list = []
    for side in (config, override(config, {"data.variants": None})):
        names = np.char.add("animal ", code_N.astype(str)).astype(object)
        pool = make_pool(side.data, names, np.arange(len(cache)), len(cache))
        variants = build_variants(folder, cache, pool, side)
        sides_N6 = np.zeros((len(cache), 6), np.float32)
        source = make_source(side, pool, image_cache=cache.path, variants=variants, code_N=code_N, sides_N6=sides_N6)
        both += [make_plan(side, names, np.arange(len(cache)), num_images=len(cache)), source]
    return both[0], both[1], both[2], both[3]


def train_epoch(model: ReidModel, loss: Loss, optimizer: torch.optim.Optimizer, batches: Iterable) -> None:
    """One optimizer step per batch, from pixels or from the boundary on."""
    model.train()
    for batch in batches:
        if isinstance(batch, KeptBatch):
            feature_BD = model.features_from(batch.activation_BX)
        else:
            feature_BD = model.features(model.normalise(torch.from_numpy(batch.pixels_BHWC)))
        optimizer.zero_grad(set_to_none=True)
        loss(feature_BD, torch.from_numpy(batch.identity_B)).backward()
        optimizer.step()


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure(config: TrialConfig, cache: ImageCache, folder: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """Seconds with kept activations and without, of each claim."""
    plan, source, online_plan, online = make_sides(config, cache, folder)
    model, row_N = make_model(config), np.arange(len(cache))
    images = PixelSource.open(source.image_cache, source.variants)
    started = time.perf_counter()
    kept = build_activations(folder, images, np.arange(len(source.code_R)), model, config)
    describe(kept, time.perf_counter() - started)
    same = np.abs(embed(model, cache, row_N, activations=kept)[0] - embed(model, cache, row_N)[0]).max()
    print(f"largest difference of an embedding: {same:.1e}; {len(plan)} batches of {config.optim.batch_size} an epoch")
    loss, optimizer = make_loss(config.loss, None), make_optimizer(config.optim, model)

    def train_kept() -> None:
        train_epoch(model, loss, optimizer, activation_batches(plan, source, kept, model, config))

    sides: dict[str, tuple[Callable, Callable]] = {
        "embed_kept_activations": (
            lambda: embed(model, cache, row_N, activations=kept),
            lambda: embed(model, cache, row_N),
        ),
        "train_kept_activations": (
            train_kept,
            lambda: train_epoch(model, loss, optimizer, local_batches(online_plan, online)),
        ),
    }
    times = [{claim: [seconds(side) for side in pair] for claim, pair in sides.items()} for _ in range(rounds)]
    return {claim: tuple(statistics.median(t[claim][i] for t in times) for i in (0, 1)) for claim in sides}  # type: ignore[misc]


def describe(kept: KeptActivations, build_s: float) -> None:
    """Print what is kept and what it took."""
    shape = "x".join(map(str, kept.layout.shape))
    size_mb = len(kept) * kept.layout.row_bytes / 1e6
    print(f"kept: {len(kept)} activations of {shape} {kept.layout.kept}, {size_mb:.0f} MB, built in {build_s:.1f} s")


def main() -> None:
    """Print one line per claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128, help="photographs, four of each animal")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(2)
    config = configure()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = write_images(folder / "images.arrow", options.images, config.data.image_px)
        results = measure(config, cache, folder, options.rounds)
    for claim, (value, peer) in results.items():
        ratio, bar = peer / value, BARS[claim]
        verdict = "ok" if ratio >= bar else "short"
        print(f"RESULT {claim} value={value:.4g} peer={peer:.4g} ratio={ratio:.2f} bar={bar:g} {verdict}")


if __name__ == "__main__":
    main()
