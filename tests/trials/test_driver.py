"""A trial on a slot is the same training as in plain Python, whatever its workers have done before."""

import json
import re

import pytest
from sweep_process import SHORT

from reid_core.__main__ import main
from reid_core.config.values import override
from reid_core.config.yaml_files import read_config
from reid_core.experiment.prepare import prepare
from reid_core.metrics.result import RESULT
from reid_core.training.step.memory import predict
from sweeps.machines.resources import Resources
from sweeps.search.suggestion import Suggestion
from sweeps.trials.context import SweepContext
from sweeps.trials.tuning import run_fixed

TRIPLETS = ["--set", "loss.name=triplet", "--set", "data.images_per_identity=4"]
OTHER = {"seed": 7, "model.weights": "random", "loss.name": "cross_entropy", "data.variants": None, "optim.epochs": 1}


def test_a_trial_after_others_gives_the_losses_of_plain_python(local_ray, small_data, tmp_path):
    more = [*TRIPLETS, "--set", "match.matcher=none"]  # the losses do not depend on matching, and it is quicker so
    plain, out = tmp_path / "plain", tmp_path / "ray"
    assert main(["--preset", "tiny", "--data", str(small_data), "--out", str(plain), *SHORT, *more]) == 0
    config = read_config(plain / "best.yaml")
    prepare(small_data, out / "cache", config)
    # As if each worker had a GPU in which the trials just have room.
    room = max(predict(each, num_identities=100, device="cpu").needed for each in (config, override(config, OTHER)))
    resources = Resources(workers=1, gpu_bytes_per_worker=room)
    context = SweepContext(config, str(out), str(out / "cache"), resources)
    rows = [
        Suggestion(name="other", parameters=OTHER),
        Suggestion(name="too-large", parameters={"model.embedding_dim": 65_536}),
        Suggestion(name="impossible", parameters={"model.unfrozen_stages": 9}),
        Suggestion(name="without-start", parameters={}, start=str(tmp_path / "nowhere")),
        Suggestion(name="same", parameters={}),
    ]
    trials = run_fixed(rows, context)
    assert {name: trial.status for name, trial in trials.items()} == {
        "other": "completed",
        "too-large": "infeasible",
        "impossible": "infeasible",
        "without-start": "infeasible",
        "same": "completed",
    }
    assert re.search(r"needs about .* GB of a GPU's memory .*, and a worker gets 1\.", trials["too-large"].reason)
    assert trials["too-large"].over_gb > 0
    assert trials["same"].step["accumulate"] == 1
    assert trials["same"].step["predicted_memory_gb"] <= room / 1e9
    assert trials["without-start"].reason.startswith(str(tmp_path / "nowhere"))
    assert len(list((out / "tune" / "slots").glob("slot-*"))) == 1  # none of them has cost the workers their lives
    epoch_zero, *without_ray = json.loads((plain / "reports.json").read_text())
    for key in ("loss", "geo_mean_cosine"):
        assert [report[key] for report in trials["same"].reports] == [report[key] for report in without_ray]
    assert len(without_ray) == 2
    assert {"epoch": 0, **trials["same"].epoch_zero} == pytest.approx(epoch_zero)
    # Of one split; the other trial has another seed, and so other random weights.
    assert trials["other"].epoch_zero.keys() < trials["same"].epoch_zero.keys()
    assert len(list((out / "cache").glob("frozen-*"))) == 2
    found = trials["same"].metrics
    assert found["gain"] == pytest.approx(found["objective"] - found["epoch0"])
    assert found["gain_low"] <= found["gain"] <= found["gain_high"]
    of_plain = json.loads((plain / RESULT).read_text())["gains"]["thresholdSet"]
    assert of_plain == pytest.approx({name: found[name] for name in of_plain}, abs=1e-6)
