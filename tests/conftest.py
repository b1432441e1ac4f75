"""What several test files need and is too slow to make twice."""

from pathlib import Path
from typing import NamedTuple

import pytest


class Experiment(NamedTuple):
    """A data folder and the result folder of `python -m reid_core` on it."""

    data: Path
    out: Path


TINY_RUN = [
    *("--preset", "tiny", "--seed", "1"),
    *("--set", "model.backbone=swin_micro_patch4_window4_64"),
    *("--set", "model.embedding_dim=16"),
    *("--set", "optim.epochs=1"),
    *("--set", "optim.batch_size=8"),
    *("--set", "match.num_keypoints=32"),
    *("--set", "match.shortlist=5"),
]


@pytest.fixture(scope="session")
def experiment(tmp_path_factory) -> Experiment:
    """One epoch on a small drawn data set; nobody may write into its folders."""
    from reid_core.__main__ import main
    from reid_core.synthetic import write_synthetic

    folder = tmp_path_factory.mktemp("experiment")
    data, out = write_synthetic(folder / "data", scale=0.2), folder / "out"
    assert main(["--data", str(data), "--out", str(out), *TINY_RUN]) == 0
    return Experiment(data, out)
