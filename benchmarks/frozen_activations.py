"""How much faster are evaluation and training from kept activations, with one stage of a Swin unfrozen?

    python benchmarks/frozen_activations.py

A Swin of MegaDescriptor-L's geometry (2, 2, 18, 2 blocks), narrow enough for two CPU threads, random weights and
pixels. Evaluation: `embed.embed` with and without kept activations. Training: one epoch (forward, backward, step) from
a bank of variants against the whole forward on images augmented online. Building the bank is printed, not counted: it
is paid once per sweep. Every round runs both sides of both claims; medians of seconds.

At the end it prints what `record_variants.py` recorded: whether training from the bank costs quality.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "2"  # before torch: this compares work on both cores
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
import torch
from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.data.image_cache import ImageCache, cache_schema
from reid_core.data.pixel_source import PixelSource
from reid_core.files.atomic import write_arrow
from reid_core.model.embed import embed
from reid_core.model.frozen.activations import KeptActivations
from reid_core.model.frozen.boundary import build_activations
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel, make_model
from reid_core.training.batch_plan import make_plan, make_pool
from reid_core.training.batches import KeptBatch, Source, activation_batches, local_batches, make_source
from reid_core.training.loss import Loss, make_loss
from reid_core.training.optim import make_optimizer
from reid_core.training.variants import build_variants

IMAGES_PER_IDENTITY = 4
RECORD = Path(__file__).with_name("variants.json")  # of record_variants.py
SIDES = ("bank", "online")
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
    nulls = pa.nulls(num_images, pa.string()), pa.nulls(num_images, pa.bool_())
    table = pa.table([keys, *nulls, rows], schema=cache_schema(image_px))
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
        both += [make_plan(side, pool), source]
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
    model, row_N, place = make_model(config), np.arange(len(cache)), Place(precision=config.optim.precision)
    images = PixelSource.open(source.image_cache, source.variants)
    started = time.perf_counter()
    kept = build_activations(folder, images, np.arange(len(source.code_R)), model, config, place)
    keeping = replace(place, activations=kept)
    describe(kept, time.perf_counter() - started)
    same = np.abs(embed(model, cache, row_N, keeping)[0] - embed(model, cache, row_N, place)[0]).max()
    print(f"largest difference of an embedding: {same:.1e}; {len(plan)} batches of {config.optim.batch_size} an epoch")
    loss, optimizer = make_loss(config.loss, None), make_optimizer(config.optim, model)

    def train_kept() -> None:
        train_epoch(model, loss, optimizer, activation_batches(plan, source, model, keeping))

    sides: dict[str, tuple[Callable, Callable]] = {
        "embed_kept_activations": (
            lambda: embed(model, cache, row_N, keeping),
            lambda: embed(model, cache, row_N, place),
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


def describe_record(record: dict[str, Any]) -> str:
    """The recorded runs as a small table, and one RESULT line that judges nothing: no bar is set for quality."""
    settings, compared, runs = record["settings"], record["compared"], record["runs"]
    seeds = ", ".join(str(seed) for seed in sorted({run["seed"] for run in runs}))
    lines = [
        f"recorded by record_variants.py in {record['total_s'] / 60:.0f} minutes, threads: {record['threads']}; "
        f"{settings['model.backbone']} at {settings['data.image_px']} px, one stage unfrozen, "
        f"{record['epochs']} epochs, seeds {seeds}, one split",
        describe_bank(runs),
        describe_seconds(runs, record["epochs"]),
        f"{'GEO_MEAN':<32}{'bank':>7}{'online':>8}{'difference':>12}  95 % t interval over seeds   each seed",
    ]
    for part in ("testSet", "thresholdSet"):
        groups = sorted(name for name in compared if name.startswith(f"{part}.geo_mean."))
        lines += [describe_score(name, compared[name]) for name in (f"{part}.mean_of_groups", *groups)]
    score = compared["testSet.mean_of_groups"]
    bank, online = (score[side] for side in SIDES)
    lines.append(describe_difference(score))
    result = f"value={bank:.4f} peer={online:.4f} ratio={bank / online:.3f} bar=none ok"
    return "\n".join([*lines, f"RESULT variants_vs_online_geo_mean {result}"])


def describe_bank(runs: list[dict[str, Any]]) -> str:
    """How many images the bank of a seed holds, and what it takes on disk."""
    bank = next(run for run in runs if run["side"] == "bank")
    return (
        f"a bank: {bank['training_images']:,} training images, {bank['of_them_variants']:,} of them variants (only "
        f"animals with too few photographs have any); {bank['variants_mb']:.0f} MB of pixels, "
        f"{bank['activations_mb']:.0f} MB of activations; activations of all seeds and of evaluation: "
        f"{max(run.get('activations_folder_mb', 0) for run in runs):.0f} MB"
    )


def describe_seconds(runs: list[dict[str, Any]], epochs: int) -> str:
    """Median seconds of a training epoch on both sides, and seconds of what is built before the first."""
    bank, online = (statistics.median(run["train_s"] for run in runs if run["side"] == side) for side in SIDES)
    build = " ".join(f"{run['build_s']:.0f}" for run in runs if run["side"] == "bank")
    return (
        f"training epoch without evaluation, median of the seeds: bank {bank / epochs:.1f} s, "
        f"online {online / epochs:.1f} s, {online / bank:.1f} times as long; building the bank, seed by seed: {build} s"
    )


def describe_score(name: str, score: dict[str, Any]) -> str:
    """One line: both means, their difference, its interval, and the difference of each seed."""
    part, _, metric = name.partition(".")
    label = f"  {part} {metric.removeprefix('geo_mean.').replace('_', ' ')}"
    means = f"{score['bank']:>7.3f}{score['online']:>8.3f}{score['difference']:>+12.3f}"
    by_seed = " ".join(f"{value:+.3f}" for value in score["by_seed"])
    return f"{label:<32}{means}  {score['low']:+.3f} … {score['high']:+.3f}            {by_seed}"


def describe_difference(score: dict[str, Any]) -> str:
    """The mean difference in words."""
    contains_zero = score["low"] * score["high"] <= 0
    verdict = "contains 0: so few seeds show no difference" if contains_zero else "is on one side of 0"
    return (
        f"testSet, mean of groups: bank less online {score['difference']:+.4f}, standard error "
        f"{score['standard_error']:.4f}, 95 % t interval {score['low']:+.4f} … {score['high']:+.4f}, which {verdict}"
    )


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
    if RECORD.exists():
        print(describe_record(json.loads(RECORD.read_text())))
    else:
        print(f"nothing is replayed: {RECORD.name} is needed (make bench-long)")


if __name__ == "__main__":
    main()
