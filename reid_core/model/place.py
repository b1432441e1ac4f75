"""Where a process stands among the workers of its trial, and how it computes there.

rank, world size, device, precision → `Place`, handed through as one value.
Letters: N rows, P pairs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from reid_core.config.parameters import TrialConfig
from reid_core.matching.pairs.store import ScorePairs
from reid_core.model.frozen.activations import KeptActivations

# Every rank's array of rows → the concatenation over ranks, in the order of ranks; the identity for one process.
Gather = Callable[[np.ndarray], np.ndarray]
# Rows of query and gallery images (P,), and how to score pairs → scores (P,), some of them perhaps from other trials.
SharePairs = Callable[[np.ndarray, np.ndarray, ScorePairs], np.ndarray]
Items = TypeVar("Items", np.ndarray, list)


def alone(array: np.ndarray) -> np.ndarray:
    """The `Gather` of a single process."""
    return array


def score_all(query_P: np.ndarray, gallery_P: np.ndarray, score: ScorePairs) -> np.ndarray:
    """The `SharePairs` of a trial that is alone."""
    return score(query_P, gallery_P)


@dataclass(frozen=True)
class Place:
    """Where a process stands among the workers of its trial, and how it computes. The defaults are plain Python's.

    Attributes:
        rank: Of this process, from 0.
        world_size: Number of processes.
        device: Of torch, where model, shortlist and matcher are.
        precision: The trial's `optim.precision`.
        gather: Puts the ranks' arrays together.
        wrap: Makes a model's gradients those of all ranks.
        share_pairs: Scores pairs, or takes their scores from other trials.
        activations: What the frozen stages give for images that were seen before; None: nothing is kept.
        memory_bytes: What this process may take of its GPU's memory; None: a training step is not fitted to any.
        halvings: How often the parts of a step are divided once more, because memory did not suffice in spite of that.
    """

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    precision: str = "auto"
    gather: Gather = alone
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    share_pairs: SharePairs = score_all
    activations: KeptActivations | None = None
    memory_bytes: int | None = None
    halvings: int = 0

    @property
    def is_gpu(self) -> bool:
        """Whether the device is one of CUDA's."""
        return torch.device(self.device).type == "cuda"

    @property
    def uses_bfloat16(self) -> bool:
        """Whether the model computes in bfloat16; "auto" means on a GPU only."""
        return self.precision == "bfloat16" or (self.precision == "auto" and self.is_gpu)

    def autocast(self) -> torch.autocast:
        """bfloat16 autocast where the trial asks for it (`uses_bfloat16`)."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.uses_bfloat16)

    @contextmanager
    def fast_products(self) -> Iterator[None]:
        """For a training step: on a GPU, products of float32 are computed in TF32 unless the trial wants float32.

        It is torch's setting for the whole process, so it is put back: cosines of embeddings, by which images are
        ranked, keep all their bits, and the next trial finds nothing changed.
        """
        if not self.is_gpu:
            yield
            return
        products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        is_exact = self.precision == "float32"
        try:
            torch.set_float32_matmul_precision("highest" if is_exact else "high")
            torch.backends.cudnn.allow_tf32 = not is_exact
            yield
        finally:
            torch.set_float32_matmul_precision(products)
            torch.backends.cudnn.allow_tf32 = convolutions

    def send(self, *arrays: np.ndarray) -> list[torch.Tensor]:
        """The same arrays as tensors on the device.

        To a GPU they go from page-locked memory on a stream of their own, while it is still at work on the step before.
        """
        tensors = [torch.from_numpy(array) for array in arrays]
        if not self.is_gpu:
            return [tensor.to(self.device) for tensor in tensors]
        copying, computing = _copy_stream(self.device), torch.cuda.current_stream(self.device)
        with torch.cuda.stream(copying):
            sent = [tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors]
        computing.wait_stream(copying)
        for tensor in sent:
            tensor.record_stream(computing)  # its memory is not given away before the step that reads it
        return sent

    def share(self, items: Items) -> Items:
        """Those of some items that are this rank's work."""
        return items[self.rank :: self.world_size]


@cache
def _copy_stream(device: str) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def gpu_memory(device: str = "cuda") -> int | None:
    """Bytes of a GPU's memory; None where there is none."""
    is_there = torch.device(device).type == "cuda" and torch.cuda.is_available()
    return torch.cuda.get_device_properties(device).total_memory if is_there else None


def local_place(config: TrialConfig) -> Place:
    """One process with the machine's GPU, if it has one."""
    return Place(device="cuda" if torch.cuda.is_available() else "cpu", precision=config.optim.precision)
