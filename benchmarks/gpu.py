"""How fast is everything that wants a GPU: the training step of `megadescriptor`, its stream, embedding, matching?

    python benchmarks/gpu.py                                     # without a GPU: one line, nothing is measured
    python benchmarks/gpu.py --device cpu --backbone swin_micro_patch4_window4_64 --image-px 64 --quick

Random weights and random pixels, through the project's own trainer, `embed`, extractor and matcher. Tables of Markdown:
units per second, milliseconds of a batch, most memory that tensors took, and the share of the device's dense bfloat16
operations per second (operations are counted by torch in a step without the optimiser's). What is compared runs in turn
in one process; medians.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import gpu_matching, gpu_training
from benchmarks.gpu_data import Photographs, start_processes
from benchmarks.gpu_rows import BF16_PEAKS, Machine
from reid_core.model.reid_model import ReidModel, make_model

BATCH_SIZES = (32, 64, 16)  # the most usual one first: rows are left out at the end when the time is used up
MIDDLE = 32
PARTS = ("matching", "steps", "kept", "embedding", "stream", "variants", "compiled")


def main(arguments: list[str] | None = None) -> int:
    """Print the tables of the chosen parts."""
    options = make_parser().parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("nothing is measured: there is no GPU (--device cpu tries the script itself)")
        return 0
    chosen = PARTS if options.only is None else options.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        print(f"--only: no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, start_processes() as processes:
        machine = make_machine(options, Path(folder))
        print(describe(machine), flush=True)
        run_parts(machine, chosen, processes, quick=options.quick)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backbone", default="hf-hub:BVRA/MegaDescriptor-L-384")
    parser.add_argument("--image-px", type=int, default=384)
    parser.add_argument("--seconds", type=float, default=150, help="no row begins later")
    parser.add_argument("--only", metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--weights", help="folder with aliked-n16.pth and aliked_lightglue.pth; random if not given")
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16, for a GPU that the script does not know")
    parser.add_argument("--quick", action="store_true", help="fewer images, steps and rounds: tries the script")
    return parser


def make_machine(options: argparse.Namespace, folder: Path) -> Machine:
    """What is measured on, from the command line."""
    name = torch.cuda.get_device_name() if options.device == "cuda" else ""
    known = next((peak for part, peak in BF16_PEAKS.items() if part in name), None)
    return Machine(
        device=options.device,
        folder=folder,
        backbone=options.backbone,
        image_px=options.image_px,
        steps=2 if options.quick else 6,
        rounds=1 if options.quick else 3,
        ends=time.monotonic() + options.seconds,
        weights=options.weights,
        peak=options.peak_tflops * 1e12 if options.peak_tflops else known,
    )


def describe(machine: Machine) -> str:
    """The device, the versions, and what a plain product of large bfloat16 matrices reaches on it."""
    name = torch.cuda.get_device_name() if machine.is_gpu else "CPU"
    size = 8192 if machine.is_gpu else 512
    matrices = torch.randn(2, size, size, device=machine.device, dtype=torch.bfloat16)
    for _ in range(3):
        torch.mm(matrices[0], matrices[1])
    seconds = machine.seconds(lambda: [torch.mm(matrices[0], matrices[1]) for _ in range(10)]) / 10
    stated = "not known" if machine.peak is None else f"{machine.peak / 1e12:.0f} TFLOP/s by the data sheet"
    return (
        f"{name}, torch {torch.__version__}; {machine.backbone} at {machine.image_px} px, random weights; "
        f"dense bfloat16: {stated}, {2 * size**3 / seconds / 1e12:.1f} TFLOP/s in a {size}³ product"
    )


def run_parts(machine: Machine, chosen: Sequence[str], processes: ProcessPoolExecutor, *, quick: bool) -> None:
    """The chosen parts: matching, then what has one unfrozen stage and what has two, on one model each."""
    photographs = Photographs(machine.folder, 32 if quick else 256, machine.image_px)
    sizes, size = ((8,), 8) if quick else (BATCH_SIZES, MIDDLE)
    if "matching" in chosen:
        machine.attempt("matching", partial(run_matching, machine, quick=quick))
    with_one: dict[str, Callable[[ReidModel], None]] = {
        "steps": lambda model: gpu_training.measure_steps(machine, model, 1, sizes),
        "kept": lambda model: gpu_training.measure_frozen(machine, model, photographs, size),
    }
    with_two: dict[str, Callable[[ReidModel], None]] = {
        "steps": lambda model: gpu_training.measure_steps(machine, model, 2, sizes),
        "embedding": lambda model: gpu_training.measure_embedding(machine, model, photographs),
        "stream": lambda model: gpu_training.measure_stream(machine, model, photographs, size, processes),
        "variants": lambda model: gpu_training.measure_variants(machine, model, 2, size),
    }
    for stages, parts in ((1, with_one), (2, with_two)):
        run_with_model(machine, stages, {part: run for part, run in parts.items() if part in chosen})
    if "compiled" in chosen:
        for stages, batch in ((2, size), (1, size), *(() if quick else ((2, 64), (2, 16)))):
            measure = partial(gpu_training.measure_compiled, machine, stages, batch)
            machine.attempt(f"compiled blocks, unfrozen stages: {stages}, batch {batch}", measure)


def run_with_model(machine: Machine, stages: int, parts: Mapping[str, Callable[[ReidModel], None]]) -> None:
    """Some parts on one model."""
    if not parts or not machine.has_time(f"what has unfrozen stages: {stages}"):
        return
    model = make_model(gpu_training.configure(machine, stages, MIDDLE))
    for part, run in parts.items():
        machine.attempt(part, partial(run, model))


def run_matching(machine: Machine, *, quick: bool) -> None:
    """Extraction and matching."""
    folder = gpu_matching.weights_folder(machine)
    gpu_matching.measure_extraction(machine, folder, 4 if quick else 64, 128 if quick else 512)
    gpu_matching.measure_matching(machine, folder, 16 if quick else 1024, num_keypoints=32 if quick else 256)


if __name__ == "__main__":
    sys.exit(main())
