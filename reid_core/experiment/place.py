"""Where a process stands among the workers of its trial, and what it does there.

rank, world size, device → `Place`, handed through as one value.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from reid_core.config.parameters import TrialConfig
from reid_core.experiment.prepared import Prepared
from reid_core.model.embed import Gather, alone, embed
from reid_core.model.frozen.activations import KeptActivations
from reid_core.model.reid_model import ReidModel
from reid_core.scoring.candidates import ScorePairs

# Rows of query and gallery images (P,), and how to score pairs → scores (P,), some of them perhaps from other trials.
SharePairs = Callable[[np.ndarray, np.ndarray, ScorePairs], np.ndarray]


def score_all(query_P: np.ndarray, gallery_P: np.ndarray, score: ScorePairs) -> np.ndarray:
    """The `SharePairs` of a trial that is alone."""
    return score(query_P, gallery_P)


@dataclass(frozen=True)
class Place:
    """Where a process stands among the workers of its trial. The defaults are plain Python's."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    gather: Gather = alone
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    share_pairs: SharePairs = score_all
    activations: KeptActivations | None = None  # of the frozen stages (`keep_activations`)

    def embed(
        self, config: TrialConfig, model: ReidModel, prepared: Prepared, row_N: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """`embed.embed` with this place's share of the work."""
        return embed(
            model,
            prepared.images,
            row_N,
            sides_N6=prepared.sides_N6,
            activations=self.activations,
            device=self.device,
            precision=config.optim.precision,
            rank=self.rank,
            world_size=self.world_size,
            gather=self.gather,
        )


def local_place() -> Place:
    """One process with the machine's GPU, if it has one."""
    return Place(device="cuda" if torch.cuda.is_available() else "cpu")
