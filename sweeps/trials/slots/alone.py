"""A trial alone in its process: what all of a process share is for each trial as in a new one. No Ray.

seed and device of a trial → random numbers, threads and torch's settings to begin with; afterwards nothing is left.
"""

import gc
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import torch

BACKENDS: Any = torch.backends
ATTRIBUTES: tuple[tuple[Any, str], ...] = (
    *((place, "fp32_precision") for place in (BACKENDS, BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn)),
    *((BACKENDS.cudnn, name) for name in ("enabled", "benchmark", "deterministic")),
)
FUNCTIONS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.is_grad_enabled, torch.set_grad_enabled),
)


@contextmanager
def alone(seed: int, device: str) -> Iterator[None]:
    """What is computed inside depends on nothing that was computed in this process before, and leaves nothing in it."""
    before = _read_settings()
    for begin in (random.seed, np.random.seed, torch.manual_seed):
        begin(seed)
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        _restore(before)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if "torch._dynamo" in sys.modules:  # it gives up compiling a function that it has compiled for several models
            torch.compiler.reset()


def _read_settings() -> list[Any]:
    return [*(getattr(place, name) for place, name in ATTRIBUTES), *(read() for read, _ in FUNCTIONS)]


def _restore(before: list[Any]) -> None:
    """Set what has another value than before; not all: setting a precision turns "none" into one of the others."""
    write: list[Callable[[Any], Any]] = [
        *(lambda value, place=place, name=name: setattr(place, name, value) for place, name in ATTRIBUTES),
        *(write for _, write in FUNCTIONS),
    ]
    for is_value, was, put in zip(_read_settings(), before, write, strict=True):
        if is_value != was:
            put(was)


def measure_memory() -> int:
    """Bytes that this process holds, those on its GPU included, but no pages of files that it shares with others.

    A trial on another data set maps another cache; and Ray's object store is mapped too.
    """
    held = psutil.Process().memory_info()
    return held.rss - held.shared + (torch.cuda.memory_allocated() if torch.cuda.is_available() else 0)
