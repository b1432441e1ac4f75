"""The sweep scripts' command lines: presets, attempts, searched keys; what is refused before anything is done."""

import json
import pickle

import pytest

from reid_core.config.presets import make_preset, shrink
from reid_core.errors import UserError
from sweeps import classification, efficientnet, metric
from sweeps.results.result_folder import claim_out
from sweeps.search.candidates import Choices
from sweeps.search.space import SearchSpace, classification_space, efficientnet_space, metric_space
from sweeps.stages.command_line import make_parser, make_sweep


@pytest.fixture
def started(monkeypatch) -> list:
    """The sweeps that scripts would start."""
    sweeps: list = []

    def run_sweep(name, space, options):
        sweeps.append(make_sweep(name, space, options))
        return 0

    monkeypatch.setattr("sweeps.stages.sweep.run_sweep", run_sweep)
    return sweeps


def flags(data, out, *more):
    return ["--data", str(data), "--out", str(out), *more]


@pytest.mark.parametrize(
    ("script", "more", "name", "space"),
    [
        (metric, [], "megadescriptor", metric_space),
        (classification, [], "batch32", classification_space),
        (efficientnet, [], "efficientnet_b4", efficientnet_space),
        (efficientnet, ["--attempt", "direct"], "efficientnet_b4", efficientnet_space),
        (efficientnet, ["--attempt", "frozen"], "efficientnet_b4_frozen", efficientnet_space),
        (efficientnet, ["--preset", "batch16"], "batch16", efficientnet_space),
    ],
)
def test_each_script_starts_from_its_preset_and_for_synthetic_data_from_a_small_one(
    script, more, name, space, started, tmp_path
):
    assert script.main(flags(tmp_path, tmp_path, *more)) == 0
    script.main(flags("synthetic", tmp_path, *more))
    real, synthetic = started
    assert real.base == make_preset(name)
    small = make_preset("tiny") if script is metric else shrink(make_preset(name))
    assert synthetic.base == (make_preset(name) if "--preset" in more else small)
    assert real.space == SearchSpace(space, real.base)


@pytest.mark.parametrize("other", [["--preset", "batch16"], ["--config", "best.yaml"]])
def test_an_attempt_and_another_whole_configuration_are_refused(other, tmp_path):
    with pytest.raises(UserError, match="--attempt names a preset itself"):
        efficientnet.main(flags(tmp_path, tmp_path, "--attempt", "frozen", *other))


def make(tmp_path, *more):
    options = make_parser("").parse_args(flags("synthetic", tmp_path, *more))
    return make_sweep("metric", metric_space, options)


def test_searched_keys_are_part_of_the_space_and_of_what_a_resumed_sweep_must_share(tmp_path):
    sweep = make(tmp_path, "--search", "match.shortlist=10,50", "--search", "optim.lr_head=log:1e-4..1e-2")
    point = sweep.space.base_point()
    assert point["match.shortlist"] == sweep.base.match.shortlist
    assert pickle.loads(pickle.dumps(sweep.space)).base_point() == point
    assert sweep.settings()["searched"] == {"match.shortlist": "10,50,20", "optim.lr_head": "log:0.0001..0.01"}
    json.dumps(sweep.settings())

    claim_out(tmp_path, sweep.settings(), resume="auto")
    claim_out(tmp_path, sweep.settings(), resume="auto")
    with pytest.raises(UserError, match=r"searched: \{'match.shortlist': '10,50,20'.* before, .*'20,10'\} now"):
        claim_out(tmp_path, make(tmp_path, "--search", "match.shortlist=20,10").settings(), resume="auto")


def test_a_key_is_set_or_searched(tmp_path):
    with pytest.raises(UserError, match=r"--search loss\.name: --set fixes it"):
        make(tmp_path, "--set", "loss.name=arcface", "--search", "loss.name")
    with pytest.raises(UserError, match=r"--search data\.split: cannot be searched: another split"):
        make(tmp_path, "--search", "data.split")


def test_weights_files_that_are_searched_must_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.safetensors").touch()
    searched = dict(make(tmp_path, "--search", "model.weights=random,a.safetensors").space.searched)
    assert searched["model.weights"] == Choices(("random", str(tmp_path / "a.safetensors"), "pretrained"))
    with pytest.raises(UserError, match=r"model\.weights=.*gone\.safetensors cannot be read"):
        make(tmp_path, "--search", "model.weights=random,gone.safetensors")


def test_arcface_is_searched_by_its_own_values(tmp_path):
    sweep = make(tmp_path, "--set", "loss.name=arcface")
    point = sweep.space.base_point()
    assert {key for key in point if key.startswith("loss.")} == {"loss.margin_deg", "loss.scale"}
