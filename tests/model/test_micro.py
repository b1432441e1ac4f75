"""Weights in the package: whole, loaded as they are, with their provenance, and from animals that the demo has not."""

import hashlib
import json
import shutil
import tomllib

import numpy as np
import pytest
import torch
from repository import ROOT
from safetensors.torch import load_file, save_file

from benchmarks import pretrain_tiny
from reid_core.config.parameters import ModelConfig
from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.data import synthetic
from reid_core.errors import UserError
from reid_core.model import micro
from reid_core.model.backbone import make_backbone
from reid_core.model.hub import check_weights
from reid_core.model.micro import PRETRAINED, WEIGHTS, read_provenance
from reid_core.model.reid_model import make_model

FILE = WEIGHTS / f"{PRETRAINED}.safetensors"
DEMO_SEED = 0  # of `write_synthetic`, with `--data synthetic`


def test_the_weights_are_small_whole_and_in_the_wheel():
    assert FILE.stat().st_size <= 1.5e6
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == read_provenance()["sha256"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (pattern,) = project["tool"]["setuptools"]["package-data"]["reid_core.model"]
    assert {file.name for file in WEIGHTS.parent.glob(pattern)} == {FILE.name, f"{PRETRAINED}.json"}


def test_the_provenance_is_the_script_s_own():
    provenance = read_provenance()
    assert (ROOT / provenance["script"]).is_file()
    assert provenance["data"]["version"] == synthetic.VERSION
    assert {key: provenance["data"][key] for key in pretrain_tiny.DATA} == pretrain_tiny.DATA
    assert provenance["training"]["settings"] == json.loads(json.dumps(pretrain_tiny.SETTINGS))
    assert provenance["why"] == pretrain_tiny.WHY
    assert all(provenance["packages"].values())


@pytest.mark.parametrize("name", [PRETRAINED, f"{PRETRAINED}.drawn"])
def test_pretrained_loads_exactly_these_values(name):
    loaded, file = make_backbone(ModelConfig(backbone=name), 64).state_dict(), load_file(FILE)
    assert loaded.keys() == file.keys()
    assert all(torch.equal(loaded[key], value.float()) for key, value in file.items())
    check_weights(ModelConfig(backbone=name), 64)


def test_the_preset_starts_from_them_unless_random_weights_are_asked_for():
    file = load_file(FILE)
    pretrained, random = (make_model(override(tiny(), changes)) for changes in ({}, {"model.weights": "random"}))
    for key in ("stem.0.weight", "stages.3.blocks.0.mlp.fc1.weight"):
        assert torch.equal(pretrained.backbone.state_dict()[key], file[key].float())
        assert not torch.equal(random.backbone.state_dict()[key], file[key].float())


def test_a_file_of_one_s_own_is_loaded_into_our_networks_too(tmp_path):
    state = {key: value + 1 for key, value in load_file(FILE).items()}
    save_file(state, tmp_path / "own.safetensors")
    config = ModelConfig(backbone=PRETRAINED, weights=str(tmp_path / "own.safetensors"))
    assert all(torch.equal(value, state[key].float()) for key, value in make_backbone(config, 64).state_dict().items())


@pytest.mark.parametrize("loss", ["changed", "missing weights", "missing provenance", "no json"])
def test_damaged_weights_are_refused_before_and_when_they_are_loaded(loss, tmp_path, monkeypatch):
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(micro, "WEIGHTS", tmp_path / "weights")
    file, provenance = (tmp_path / "weights" / path.name for path in (FILE, FILE.with_suffix(".json")))
    if loss == "changed":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif loss == "no json":
        provenance.write_text("{")
    else:
        (file if loss == "missing weights" else provenance).unlink()
    for refuse in (check_weights, make_backbone):
        with pytest.raises(UserError, match=r"convnext_micro_64\.safetensors: .*; install the package again"):
            refuse(ModelConfig(backbone=PRETRAINED), 64)
    make_backbone(ModelConfig(backbone=PRETRAINED, weights="random"), 64)


def test_no_animal_of_the_demo_was_in_their_training(tmp_path, monkeypatch):
    """The seeds differ, and so do all coats that they draw: no two are nearly the same."""
    seed = read_provenance()["data"]["seed"]
    assert seed != DEMO_SEED
    coats = {}

    def draw(rng, species):
        animal = draw_animal(rng, species)
        coats[each].setdefault(species.dataset, []).append(animal[::4, ::4, :3].mean(axis=2).ravel())
        return animal

    draw_animal = synthetic.draw_animal
    monkeypatch.setattr(synthetic, "draw_animal", draw)
    for each in (seed, DEMO_SEED):
        coats[each] = {}
        synthetic.write_synthetic(tmp_path / str(each), seed=each, scale=0.1)
    for species, theirs in coats[seed].items():
        difference_KK = np.abs(np.array(theirs)[:, None] - np.array(coats[DEMO_SEED][species])).mean(axis=2)
        assert difference_KK.min() > 1


def test_the_script_makes_weights_and_provenance(tmp_path):
    flags = ("--out", tmp_path / "out", "--cache", tmp_path / "cache", "--scale", "0.1", "--epochs", "1")
    pretrain_tiny.main([str(flag) for flag in flags])
    made = json.loads((tmp_path / "out" / f"{PRETRAINED}.json").read_text())
    file = tmp_path / "out" / FILE.name
    assert made["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert made.keys() == read_provenance().keys()
    assert {key: value.shape for key, value in load_file(file).items()} == {
        key: value.shape for key, value in load_file(FILE).items()
    }
