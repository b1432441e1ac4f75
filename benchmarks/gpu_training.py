"""The training step of `gpu.py`: batch sizes, what makes it fast, compiled blocks, kept activations, embedding.

Every step is `Trainer.fit`'s own, copy of the pixels to the device and clipped gradients included.
"""

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_data import PER_IDENTITY, Photographs, streams_of
from benchmarks.gpu_rows import Machine, print_heading, print_row, result_line, share_of_peak
from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.metrics.epoch_report import SCORE
from reid_core.model.embed import BATCH_IMAGES, embed
from reid_core.model.frozen.boundary import build_activations
from reid_core.model.heads import NUM_SIDES
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel, make_model
from reid_core.training.batches import Batch, activation_batches, local_batches
from reid_core.training.step.memory import predict
from reid_core.training.trainer import Trainer

MANY_EPOCHS = 10_000  # of a run that is never trained to its end
MANY_STEPS = 10_000  # of a stream that nobody reads to its end


def configure(machine: Machine, stages: int, batch_size: int, **more: Any) -> TrialConfig:
    """The preset `megadescriptor` with random weights; `more` by dotted key, with two underscores for the dot."""
    settings = {
        "data.image_px": machine.image_px,
        "data.images_per_identity": PER_IDENTITY,
        "model.backbone": machine.backbone,
        "model.weights": "random",
        "model.unfrozen_stages": stages,
        "optim.batch_size": batch_size,
        "optim.epochs": MANY_EPOCHS,
    }
    return override(TrialConfig(), settings | {key.replace("__", "."): value for key, value in more.items()})


def place_of(machine: Machine, precision: str = "auto") -> Place:
    """One process on the device."""
    return Place(device=machine.device, precision=precision)


def random_batch(config: TrialConfig) -> Batch:
    """Random pixels of `PER_IDENTITY` images of each animal."""
    size, px = config.optim.batch_size, config.data.image_px
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, (size, px, px, 3), dtype=np.uint8)
    return Batch(pixels_BHWC, np.arange(size) // PER_IDENTITY, np.zeros((size, NUM_SIDES), np.float32))


class Training:
    """A trainer at work on batches; each call of `epoch` is one epoch of a few steps."""

    def __init__(
        self, machine: Machine, config: TrialConfig, model: ReidModel, batches: Iterator | None = None
    ) -> None:
        self.machine, self.config = machine, config
        self.place = place_of(machine, config.optim.precision)
        self.trainer = Trainer(config, model, self.place, steps_per_epoch=machine.steps)
        self.num_images = machine.steps * config.optim.batch_size
        # The score never changes, so the weights of the first epoch stay the best ones: no other one is copied.
        self._epochs = self.trainer.fit(batches or itertools.repeat(random_batch(config)), lambda _: {SCORE: 0.0})

    def epoch(self) -> None:
        """Train for some steps; returns when the device is done."""
        next(self._epochs)

    def count_operations(self) -> float:
        """Floating-point operations per image of a step, counted while an epoch is trained (the warm-up)."""
        with FlopCounterMode(display=False) as counter:
            self.epoch()
        return counter.get_total_flops() / self.num_images

    def print_row(self, what: str, seconds: float, operations: float, memory_gb: float | None = None) -> None:
        """The row of one epoch."""
        share = share_of_peak(operations * self.num_images, seconds, self.machine.peak)
        size = self.config.optim.batch_size
        print_row(what, seconds / self.machine.steps, size, batch=size, memory_gb=memory_gb, share=share)


def measure_steps(machine: Machine, model: ReidModel, stages: int, batch_sizes: tuple[int, ...]) -> None:
    """A row for each batch size, each alone on the device."""
    print_heading(f"training step, unfrozen stages: {stages}, as the project runs it")
    for size in batch_sizes:
        what = f"unfrozen stages: {stages}, batch {size}"
        if machine.has_time(what):
            machine.attempt(what, partial(_measure_step, machine, configure(machine, stages, size), model, what))


def _measure_step(machine: Machine, config: TrialConfig, model: ReidModel, what: str) -> None:
    training = Training(machine, config, model)
    operations = training.count_operations()
    training.epoch()
    memory_gb = machine.peak_gb(training.epoch)
    seconds = machine.medians({what: training.epoch})[what]
    training.print_row(f"{what}; {operations / 1e9:,.1f} GFLOP an image", seconds, operations, memory_gb)
    if memory_gb is not None:
        predicted_gb = predict(config, num_identities=0).tensors / 1e9
        claim = f"peak_memory_predicted_{config.model.unfrozen_stages}_unfrozen_batch_{config.optim.batch_size}"
        print(result_line(claim, predicted_gb, memory_gb), flush=True)


class ExactProducts(Place):
    """Leaves torch's own choice for products of float32: exact ones."""

    def fast_products(self) -> Any:
        """Nothing is changed."""
        return nullcontext()


class PlainCopy(Place):
    """Copies as `Tensor.to` does, which the host waits for."""

    def send(self, *arrays: np.ndarray) -> list[torch.Tensor]:
        """The same tensors."""
        return [torch.from_numpy(array).to(self.device) for array in arrays]


@dataclass(frozen=True)
class Variant:
    """One way to run the step; the defaults are the project's own."""

    precision: str = "auto"
    fused: bool = True
    channels_last: bool = True
    place: type[Place] = Place
    accumulate: int | None = None
    checkpointing: bool = False


VARIANTS = {
    "as the project runs it": Variant(),
    "AdamW not fused": Variant(fused=False),
    "channels first": Variant(channels_last=False),
    "products of float32 not in TF32": Variant(place=ExactProducts),
    "pixels copied while the host waits": Variant(place=PlainCopy),
    "in two parts": Variant(accumulate=2),
    "float32 network": Variant(precision="float32"),
    "float32 network, TF32": Variant(precision="tf32"),
    "with gradient checkpointing": Variant(checkpointing=True),
}


class VariantTraining(Training):
    """A training of the model that other variants train too; sets up its own way before each epoch."""

    def __init__(self, machine: Machine, config: TrialConfig, model: ReidModel, variant: Variant) -> None:
        settings = {"optim.precision": variant.precision, "optim.accumulate": variant.accumulate}
        super().__init__(machine, override(config, settings), model)
        self.variant = variant
        self.trainer.place = variant.place(device=machine.device, precision=variant.precision)
        for group in self.trainer.optimizer.param_groups:
            group["fused"] = variant.fused

    def epoch(self) -> None:
        """`Training.epoch` the variant's way."""
        model: Any = self.trainer.model
        first = not self.variant.channels_last
        model.to(memory_format=torch.contiguous_format if first else torch.channels_last)
        model.backbone.set_grad_checkpointing(self.variant.checkpointing)
        if first:
            model.images_from = lambda pixels: model.normalise(torch.as_tensor(pixels, device=model.mean.device))
        try:
            super().epoch()
        finally:
            model.__dict__.pop("images_from", None)


def measure_variants(machine: Machine, model: ReidModel, stages: int, batch_size: int) -> None:
    """What each part of the step's set-up is worth: all variants in turn, on one model."""
    if not machine.has_time("variants of the step"):
        return
    print_heading(f"what makes the step fast: unfrozen stages: {stages}, batch {batch_size}, all in turn")
    config = configure(machine, stages, batch_size)
    trainings = {name: VariantTraining(machine, config, model, variant) for name, variant in VARIANTS.items()}
    operations = Training(machine, config, model).count_operations()
    for training in trainings.values():
        training.epoch()
    seconds = machine.medians({name: training.epoch for name, training in trainings.items()})
    model.backbone.set_grad_checkpointing(False)  # type: ignore[operator]
    for name, training in trainings.items():
        training.print_row(name, seconds[name], operations)
    own = seconds["as the project runs it"]
    print(result_line("step_bfloat16", machine.steps / own, machine.steps / seconds["float32 network"]))


def measure_compiled(machine: Machine, stages: int, batch_size: int) -> None:
    """Blocks compiled by torch.compile against the same step without; the peak of each alone on the device."""
    what = f"unfrozen stages: {stages}, batch {batch_size}"
    if not machine.has_time(f"compiled blocks, {what}"):
        return
    config = configure(machine, stages, batch_size)
    compiled = Training(machine, config, compile_blocks(make_model(config)))
    first = machine.seconds(compiled.epoch)
    print(f"\n{what}: the first {machine.steps} steps with compiled blocks took {first:.1f} s", flush=True)
    compiled.epoch()
    memory_gb = machine.peak_gb(compiled.epoch)
    plain = Training(machine, config, make_model(config))
    operations = plain.count_operations()
    plain.epoch()
    seconds = machine.medians({"compiled": compiled.epoch, "plain": plain.epoch})
    print_heading(f"{what}: torch.compile of each block, in turn with the step as it is")
    compiled.print_row("blocks compiled", seconds["compiled"], operations, memory_gb)
    plain.print_row("not compiled", seconds["plain"], operations)
    rates = {name: compiled.num_images / taken for name, taken in seconds.items()}
    print(result_line(f"step_compiled_{stages}_unfrozen_batch_{batch_size}", rates["compiled"], rates["plain"]))


def compile_blocks(model: ReidModel) -> ReidModel:
    """Compile each block of each stage by itself: blocks of equal shape share what is compiled."""
    torch._dynamo.config.recompile_limit = 64  # a stage has blocks with shifted windows and without
    stages = [module for part in model.parts() if part.name.startswith("stage") for module in part.modules]
    for block in (block for stage in stages for block in getattr(stage, "blocks", [stage])):
        block.compile(dynamic=False)
    return model


def measure_embedding(machine: Machine, model: ReidModel, photographs: Photographs) -> None:
    """Images per second of `embed`, in the precision that the project uses and in float32."""
    if not machine.has_time("embedding"):
        return
    print_heading(f"embedding of {len(photographs.cache)} photographs from the image cache")
    rows = np.arange(len(photographs.cache))
    model.to(machine.device)

    def run(precision: str) -> None:
        embed(model, photographs.cache, rows, place_of(machine, precision))

    with FlopCounterMode(display=False) as counter:
        run("auto")
    memory_gb = machine.peak_gb(lambda: run("auto"))
    run("float32")
    seconds = machine.medians({"auto": lambda: run("auto"), "float32": lambda: run("float32")})
    for name, what in (("auto", "as the project runs it"), ("float32", "float32 network")):
        share = share_of_peak(counter.get_total_flops(), seconds[name], machine.peak)
        memory = memory_gb if name == "auto" else None
        print_row(what, seconds[name], len(rows), batch=BATCH_IMAGES, memory_gb=memory, share=share)


def measure_frozen(machine: Machine, model: ReidModel, photographs: Photographs, batch_size: int) -> None:
    """One unfrozen stage: training and embedding from kept activations against whole images."""
    if not machine.has_time("kept activations"):
        return
    print_heading(f"1 unfrozen stage, frozen activations kept or not: batch {batch_size}, no augmentation")
    config = configure(machine, 1, batch_size, data__variants=1, model__keep_activations=True)
    plan, source = photographs.plan_and_source(config, num_steps=(machine.rounds + 1) * machine.steps)
    rows, place = np.arange(len(photographs.cache)), place_of(machine)
    kept = []
    model.to(machine.device)
    build_s = machine.seconds(
        lambda: kept.append(build_activations(machine.folder, photographs.pixels, rows, model, config, place))
    )
    print_row(f"activations kept, {kept[0].layout.row_bytes / 1e3:,.0f} kB an image", build_s, len(rows), batch=64)
    keeping = replace(place, activations=kept[0])
    trainings = {
        "training from kept activations": Training(
            machine, config, model, activation_batches(plan, source, model, keeping)
        ),
        "training from whole images": Training(machine, config, model, local_batches(plan, source)),
    }
    for training in trainings.values():
        training.epoch()
    seconds = machine.medians({name: training.epoch for name, training in trainings.items()})
    embeddings = {
        "embedding from kept activations": lambda: embed(model, photographs.cache, rows, keeping),
        "embedding of whole images": lambda: embed(model, photographs.cache, rows, place),
    }
    taken = machine.medians(embeddings)
    num_images = machine.steps * batch_size
    for name in trainings:
        print_row(name, seconds[name], num_images, batch=batch_size)
    for name in embeddings:
        print_row(name, taken[name], len(rows), batch=BATCH_IMAGES)
    kept_s, whole_s = seconds.values()
    print(result_line("gpu_train_kept_activations", num_images / kept_s, num_images / whole_s))


def measure_stream(
    machine: Machine, model: ReidModel, photographs: Photographs, batch_size: int, processes: ProcessPoolExecutor
) -> None:
    """How fast augmented batches are made, and how much of an epoch is spent waiting for them."""
    if not machine.has_time("the stream of batches"):
        return
    config = configure(machine, 2, batch_size)
    streams = streams_of(*photographs.plan_and_source(config, num_steps=MANY_STEPS), processes)
    print_heading("the stream of batches from the image cache, augmented online")
    rates = {}
    for name, make in streams.items():
        num_images, seconds = drain(make())
        rates[name] = num_images / seconds
        print_row(name, seconds, num_images, batch=batch_size)
    fastest = max(rates, key=lambda name: rates[name])
    alone = Training(machine, config, model)
    fed = Training(machine, config, model, streams[fastest]())
    alone.epoch()
    fed.epoch()
    seconds_of = machine.medians({"alone": alone.epoch, "fed": fed.epoch})
    waiting = max(0.0, 1 - seconds_of["alone"] / seconds_of["fed"])
    print_row("step on one batch again and again", seconds_of["alone"], alone.num_images, batch=batch_size)
    print_row(f"step fed by the stream, waits {waiting:.0%} of the time", seconds_of["fed"], fed.num_images)
    print(result_line("stream_against_step", rates[fastest], alone.num_images / seconds_of["alone"]))


def drain(batches: Iterator[Batch], limit_s: float = 3.0) -> tuple[int, float]:
    """Images and seconds after the first batch, until the time is over."""
    next(batches)
    started, num_images = time.perf_counter(), 0
    while time.perf_counter() - started < limit_s:
        num_images += len(next(batches).identity_B)
    return num_images, time.perf_counter() - started
