"""A trial on a slot is the same training as in plain Python, whatever its workers have done before."""

import json
import re

from sweep_process import SHORT

from reid_core.__main__ import main
from reid_core.config.values import override
from reid_core.config.yaml_files import read_config
from reid_core.experiment.prepare import prepare
from reid_core.training.memory import predict
from sweeps.machines.resources import Resources
from sweeps.search.suggestion import Suggestion
from sweeps.trials.context import SweepContext
from sweeps.trials.tuning import run_fixed

OTHER = {"seed": 7, "loss.name": "cross_entropy", "data.variants": None, "optim.epochs": 1}


def test_a_trial_after_others_gives_the_losses_of_plain_python(local_ray, small_data, tmp_path):
    cosine_only = ["--set", "match.matcher=none"]  # the losses do not depend on it, and it is quicker
    plain, out = tmp_path / "plain", tmp_path / "ray"
    assert main(["--preset", "tiny", "--data", str(small_data), "--out", str(plain), *SHORT, *cosine_only]) == 0
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
    without_ray = json.loads((plain / "reports.json").read_text())
    for key in ("loss", "geo_mean_cosine"):
        assert [report[key] for report in trials["same"].reports] == [report[key] for report in without_ray]
    assert len(without_ray) == 2
