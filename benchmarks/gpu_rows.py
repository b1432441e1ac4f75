"""What the rows of `gpu.py` share: the machine they are measured on, how time is taken, how a row is printed.

functions that do some work → medians of seconds → lines of a Markdown table, and RESULT lines.
"""

import gc
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

# Dense bfloat16 operations per second, from the makers' data sheets, by a part of torch's name of the device.
BF16_PEAKS = {"H100": 989.4e12, "H200": 989.4e12, "GH200": 989.4e12, "A100": 312e12}
logger = logging.getLogger("gpu")
HEADING = ("what", "batch", "per second", "ms a batch", "peak memory", "share of the bf16 peak")
WIDTHS = (58, 5, 18, 10, 11, 22)


@dataclass(frozen=True)
class Machine:
    """Where and how long is measured."""

    device: str
    folder: Path  # for image caches and activations
    backbone: str
    image_px: int
    steps: int  # of training, in one measurement
    rounds: int  # measurements, whose median counts
    ends: float  # on the monotonic clock: rows that would begin later are left out
    weights: str | None  # folder with the published weights of ALIKED and LightGlue; None: random ones
    peak: float | None  # bfloat16 operations per second

    @property
    def is_gpu(self) -> bool:
        """Whether there is memory to watch and a device to wait for."""
        return torch.device(self.device).type == "cuda"

    def has_time(self, what: str) -> bool:
        """Whether a row may still begin; says so if not."""
        if time.monotonic() < self.ends:
            return True
        print(f"not measured, the time is used up (--seconds): {what}", flush=True)
        return False

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Wall time of some work, until the device is done."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def peak_gb(self, work: Callable[[], object]) -> float | None:
        """Most memory that tensors on the device take during some work, in 10^9 bytes; None on a CPU."""
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return torch.cuda.max_memory_allocated() / 1e9 if self.is_gpu else None

    def medians(self, sides: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Median seconds of each side; every round runs all of them."""
        taken = [{name: self.seconds(work) for name, work in sides.items()} for _ in range(self.rounds)]
        return {name: statistics.median(times[name] for times in taken) for name in sides}

    def attempt(self, what: str, work: Callable[[], object]) -> None:
        """Measure, and give back the device memory; what fails, for want of memory say, costs no other row."""
        try:
            work()
        except Exception as error:
            logger.warning("not measured: %s", what, exc_info=error)
        if self.is_gpu:
            gc.collect()
            torch.cuda.empty_cache()


def share_of_peak(operations: float, seconds: float, peak: float | None) -> float | None:
    """Which part of the device's operations per second some work reached; None if the device's are not known."""
    return None if peak is None else operations / seconds / peak


def print_heading(title: str) -> None:
    """A title and the head of a table."""
    print(f"\n{title}\n")
    _print_cells(HEADING)
    print("|" + "|".join("-" * (width + 2) for width in WIDTHS) + "|", flush=True)


def print_row(
    what: str,
    seconds: float,
    count: int,
    *,
    unit: str = "images",
    batch: int | None = None,
    memory_gb: float | None = None,
    share: float | None = None,
) -> None:
    """One line: how long `count` units took, in `seconds`; printed at once, so that a stop loses no row."""
    cells = [
        what,
        "" if batch is None else str(batch),
        f"{count / seconds:,.1f} {unit}",
        "" if batch is None else f"{seconds / count * batch * 1e3:.1f}",
        "" if memory_gb is None else f"{memory_gb:.2f} GB",
        "" if share is None else f"{share:.1%}",
    ]
    _print_cells(cells)


def _print_cells(cells: tuple[str, ...] | list[str]) -> None:
    print("| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)) + " |", flush=True)


def result_line(claim: str, value: float, peer: float, *, bar: float | None = None) -> str:
    """The line of a claim: how much faster than its peer something is; without a bar it judges nothing."""
    ratio = value / peer
    verdict = "ok" if bar is None or ratio >= bar else "short"
    return f"RESULT {claim} value={value:.4g} peer={peer:.4g} ratio={ratio:.2f} bar={bar or 'none'} {verdict}"
