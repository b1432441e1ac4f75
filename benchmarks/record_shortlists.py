"""Record the shortlists of a sweep's trials on real photographs, for `benchmarks/shared_matching.py` to replay.

    python benchmarks/record_shortlists.py --data PATH --weights mobilenetv2_100.safetensors     # `make bench-long`

20 configurations that Optuna draws from the metric-learning space, the preset first, each trained for a few epochs and
none of them pruned, because a pruned trial asks for no pairs. Written are rows of the prepared data, no photographs.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import optuna

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import make_preset
from reid_core.config.values import override
from reid_core.experiment.evaluation import epoch_evaluation, outputs_of
from reid_core.experiment.prepare import prepare
from reid_core.experiment.prepared import Prepared
from reid_core.experiment.training_setup import make_trainer, training_data_of
from reid_core.model.place import Place
from reid_core.scoring.candidates import find_candidates
from reid_core.training.batches import local_batches
from sweeps.search.goals import Goals
from sweeps.search.space import SearchSpace, metric_space

RECORD = Path(__file__).with_name("shortlists.npz")
SETTINGS = {
    "model.backbone": "mobilenetv2_100",
    "data.mean": 0.5,
    "data.std": 0.5,
    "data.image_px": 128,
    "match.matcher": "sift-mnn",
    "match.image_px": 256,
}
FIXED = frozenset((*SETTINGS, "model.weights", "optim.epochs"))


def base_config(weights: Path, epochs: int) -> TrialConfig:
    """What every trial shares."""
    own = {"model.weights": str(weights.absolute()), "optim.epochs": epochs}
    return override(make_preset("megadescriptor"), SETTINGS | own)


def shortlist_of(config: TrialConfig, prepared: Prepared) -> np.ndarray:
    """Train a configuration, and shortlist `validating` and `thresholdSet` with the best epoch; (Q, B) rows."""
    place, data = Place(), training_data_of(config, prepared)
    trainer = make_trainer(config, prepared, data.plan, place)
    for report in trainer.fit(local_batches(data.plan, data.source), epoch_evaluation(config, prepared, place)):
        print(f"  epoch {report['epoch']}: geo_mean_cosine {report['geo_mean_cosine']:.3f}", flush=True)
    parts, outputs = prepared.parts, outputs_of(config, prepared, trainer.restore_best(), place)
    found = find_candidates(
        outputs.embedding_ND,
        parts.group_N,
        queries_of(prepared),
        parts.rows("training"),
        shortlist_size=config.match.shortlist,
    )
    return found.gallery_QB


def queries_of(prepared: Prepared) -> np.ndarray:
    """Rows whose pairs a trial's evaluation asks for."""
    return np.concatenate([prepared.parts.rows("validating"), prepared.parts.rows("thresholdSet")])


def main() -> None:
    """Train, shortlist, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with metadata.csv and the photographs")
    parser.add_argument("--weights", type=Path, required=True, help="mobilenetv2_100.safetensors")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-cache"), help="where prepared data are kept")
    options = parser.parse_args()
    base = base_config(options.weights, options.epochs)
    prepared = prepare(options.data.resolve(), options.cache, base)
    study = optuna.create_study(direction="maximize", sampler=Goals().make_sampler(base.seed, 0))
    space = SearchSpace(metric_space, base, FIXED)
    study.enqueue_trial(space.base_point())
    shortlists = []
    for index in range(options.trials):
        trial = study.ask()
        values = space.suggest(trial)
        print(f"trial {index}: {values}", flush=True)
        shortlists.append(shortlist_of(override(base, values), prepared))
    np.savez_compressed(
        RECORD, query_Q=queries_of(prepared).astype(np.int32), gallery_TQB=np.stack(shortlists).astype(np.int16)
    )
    print(f"{len(shortlists)} shortlists of {shortlists[0].shape} in {RECORD}")


if __name__ == "__main__":
    main()
