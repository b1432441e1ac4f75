"""Where a process stands among the workers of its trial, and how it computes there.

rank, world size, device, precision → `Place`, handed through as one value.
Letters: N rows, P pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass
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
    """

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    precision: str = "auto"
    gather: Gather = alone
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    share_pairs: SharePairs = score_all
    activations: KeptActivations | None = None

    @property
    def uses_bfloat16(self) -> bool:
        """Whether the model computes in bfloat16; "auto" means on a GPU only."""
        return self.precision == "bfloat16" or (self.precision == "auto" and torch.device(self.device).type == "cuda")

    def autocast(self) -> torch.autocast:
        """bfloat16 autocast where the trial asks for it (`uses_bfloat16`)."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.uses_bfloat16)

    def share(self, items: Items) -> Items:
        """Those of some items that are this rank's work."""
        return items[self.rank :: self.world_size]


def local_place(config: TrialConfig) -> Place:
    """One process with the machine's GPU, if it has one."""
    return Place(device="cuda" if torch.cuda.is_available() else "cpu", precision=config.optim.precision)
