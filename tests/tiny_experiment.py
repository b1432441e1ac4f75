"""A whole experiment in miniature, with everything that it exports."""

from pathlib import Path
from typing import NamedTuple

from reid_core.__main__ import main

TINY_RUN = [
    *("--preset", "tiny", "--seed", "1"),
    *("--set", "model.backbone=swin_micro_patch4_window4_64"),
    *("--set", "model.weights=random"),
    *("--set", "data.images_per_identity=4"),
    *("--set", "model.embedding_dim=16"),
    *("--set", "loss.name=triplet"),
    *("--set", "optim.epochs=1"),
    *("--set", "optim.batch_size=8"),
    *("--set", "match.num_keypoints=32"),
    *("--set", "match.shortlist=5"),
]


class Experiment(NamedTuple):
    """A data folder and the result folder of `python -m reid_core` on it."""

    data: Path
    out: Path


def run_experiment(data: Path, out: Path, *more: str) -> Experiment:
    """One epoch on a data set, unless `more` says otherwise."""
    assert main(["--data", str(data), "--out", str(out), *TINY_RUN, *more]) == 0
    return Experiment(data, out)
