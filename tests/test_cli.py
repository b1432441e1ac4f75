"""Mistakes on the command line end with status 2 and one clear line, never a traceback."""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from reid_core import cli, command
from reid_core.__main__ import main
from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import make_preset, shrink
from reid_core.config.values import override
from reid_core.config.yaml_files import write_config
from reid_core.errors import UserError

SMALL = ["--preset", "tiny", "--set", "optim.epochs=0", "--set", "match.matcher=none"]


def refused(*arguments, capsys) -> str:
    """What is printed on stderr by a command that must end with status 2, without a traceback."""

    def with_arguments(_: None) -> int:
        return main([str(argument) for argument in arguments])

    with pytest.raises(SystemExit) as stopped:
        command.run(with_arguments)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def test_a_mistake_in_a_real_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "reid_core", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'nowhere'}: no such data folder\n"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.lr=1", "--set: unknown key 'optim.lr'; 'optim' has: epochs, batch_size, lr_head"),
        ("optimizer.lr_head=1", "unknown key 'optimizer.lr_head'; the parts are: seed, data"),
        ("optim.epochs=many", "optim.epochs='many' has the wrong type; expected int"),
        ("optim.epochs=1.5", "optim.epochs=1.5 has the wrong type; expected int"),
        ("optim.batch_size=1", "optim.batch_size=1 is outside 2 … 1000000"),
        ("loss.miner=soft", "loss.miner='soft' has the wrong type; expected one of semihard, hard, all"),
        ("optim.epochs", "--set optim.epochs: expected KEY=VALUE"),
        ("=3", "--set =3: expected KEY=VALUE"),
        ("optim.epochs=", "optim.epochs='' has the wrong type"),
        ("", "error: --set : expected KEY=VALUE"),
        ("fusion.second_weights=/absent", "fusion.second_weights=/absent cannot be read"),
        ("model.weights=" + "x" * 300, "cannot be read: File name too long"),
        ("optim.lr_head=" + "1" * 5000, "optim.lr_head='111"),  # of more digits than Python reads
        ("optim.lr_head=" + "[" * 9000, "optim.lr_head='[[["),  # deeper than Python reads
    ],
)
def test_wrong_settings(setting, message, small_data, tmp_path, capsys):
    assert message in refused("--data", small_data, "--out", tmp_path / "out", "--set", setting, capsys=capsys)
    assert not (tmp_path / "out").exists()


def test_missing_flags_and_unknown_presets(small_data, tmp_path, capsys):
    assert "--out" in refused("--data", small_data, capsys=capsys)
    assert "--data" in refused("--out", tmp_path / "out", capsys=capsys)
    assert "huge" in refused("--data", small_data, "--out", tmp_path / "out", "--preset", "huge", capsys=capsys)


def test_a_file_in_the_way_of_the_result_folder(small_data, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert f"--out {tmp_path / 'out'}: cannot be written" in refused(
        "--data", small_data, "--out", tmp_path / "out", *SMALL, capsys=capsys
    )
    below = refused("--data", small_data, "--out", tmp_path / "out" / "deeper", *SMALL, capsys=capsys)
    assert "cannot be written" in below
    assert (tmp_path / "out").read_text() == "mine"


def test_a_result_folder_of_another_configuration_is_refused(tmp_path, capsys):
    (tmp_path / "data").mkdir()  # empty: the command ends before it trains anything
    arguments = ["--data", tmp_path / "data", "--out", tmp_path / "out", *SMALL]
    assert "metadata.csv: cannot be read" in refused(*arguments, capsys=capsys)
    message = refused(*arguments, "--seed", 1, capsys=capsys)
    assert f"--out {tmp_path / 'out'} holds the result of another configuration" in message
    assert "metadata.csv: cannot be read" in refused(*arguments, capsys=capsys)  # its own is welcome


def test_data_without_metadata(tmp_path, capsys):
    message = refused("--data", tmp_path, "--out", tmp_path / "out", *SMALL, capsys=capsys)
    assert f"{tmp_path / 'metadata.csv'}: cannot be read" in message


def write_metadata(folder: Path, like: Path, identities: list[str]) -> Path:
    """A data folder of one group with these identities, one photograph each, taken from another data folder."""
    with (like / "metadata.csv").open(newline="", encoding="utf-8") as file:
        database = [row for row in csv.DictReader(file) if row["split"] == "database"]
    folder.mkdir()
    (folder / "images").symlink_to(like / "images")
    rows = [
        row | {"identity": identity, "dataset": "cow", "path": f"{i}.jpg"}
        for i, (row, identity) in enumerate(zip(database, identities, strict=False))
    ]
    for i, row in enumerate(database[: len(rows)]):
        (folder / f"{i}.jpg").write_bytes((like / row["path"]).read_bytes())
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.mark.parametrize(
    "identities", [["ada"] * 12, [f"cow {i}" for i in range(12)]], ids=["one animal", "singletons"]
)
def test_data_on_which_nothing_can_be_measured(identities, small_data, tmp_path, capsys):
    folder = write_metadata(tmp_path / "data", small_data, identities)
    message = refused("--data", folder, "--out", tmp_path / "out", *SMALL, capsys=capsys)
    assert "no group has both known and new animals in thresholdSet, so GEO_MEAN is undefined everywhere" in message
    assert "cow" in message


def test_a_batch_that_the_data_cannot_fill(small_data, tmp_path, capsys):
    more = ["--set", "optim.epochs=1", "--set", "optim.batch_size=512", "--set", "data.images_per_identity=4"]
    message = refused("--data", small_data, "--out", tmp_path / "out", *SMALL, *more, capsys=capsys)
    assert "optim.batch_size=512 with data.images_per_identity=4 needs 128 identities; training has" in message


def make_config(*arguments: str, **presets: str | None) -> TrialConfig:
    parser = argparse.ArgumentParser()
    cli.add_common_flags(parser, **presets)
    return cli.make_config(parser.parse_args(["--out", "out", *arguments]))


def test_presets_follow_the_data_unless_named():
    assert make_config("--data", "synthetic") == make_preset("tiny")
    assert make_config("--data", "folder") == make_preset("megadescriptor")
    assert make_config("--data", "folder", "--preset", "tiny") == make_preset("tiny")


def test_a_script_has_its_own_presets():
    own = {"real": "batch32", "synthetic": None}
    assert make_config("--data", "folder", **own) == make_preset("batch32")
    assert make_config("--data", "synthetic", **own) == shrink(make_preset("batch32"))
    assert make_config("--data", "synthetic", "--scale", "full", **own) == make_preset("batch32")
    assert make_config("--data", "synthetic", "--preset", "metric", **own) == make_preset("metric")


def test_scale_small_shrinks_whatever_was_chosen_once_and_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    small = shrink(make_preset("metric"))
    assert make_config("--data", "folder", "--preset", "metric", "--scale", "small") == small
    assert "--scale small: swin_micro_patch4_window4_64 at 64 px in place of hf-hub:BVRA/MegaDesc" in caplog.text
    assert make_config("--data", "folder", "--scale", "small", "--set", "optim.epochs=3").optim.epochs == 3
    caplog.clear()
    write_config(tmp_path / "best.yaml", small)
    assert make_config("--data", "folder", "--config", str(tmp_path / "best.yaml"), "--scale", "small") == small
    assert make_config("--data", "synthetic", "--scale", "small") == make_preset("tiny")  # it is small
    assert not caplog.text


def test_settings_win_over_the_seed_flag_and_over_a_file(tmp_path):
    config = override(TrialConfig(), {"optim.epochs": 3, "seed": 4})
    write_config(tmp_path / "best.yaml", config)
    given = ["--data", "folder", "--config", str(tmp_path / "best.yaml")]
    assert make_config(*given) == config
    assert make_config(*given, "--seed", "5") == override(config, {"seed": 5})
    assert make_config(*given, "--seed", "5", "--set", "optim.epochs=2") == override(
        config, {"seed": 5, "optim.epochs": 2}
    )
    with pytest.raises(UserError, match="give one"):
        make_config(*given, "--preset", "tiny")


def test_file_names_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.safetensors").touch()
    config = make_config("--data", "x", "--set", "model.weights=a.safetensors", "--set", "match.weights=folder")
    assert config.model.weights == str(tmp_path / "a.safetensors")
    assert config.match.weights == str(tmp_path / "folder")
    assert make_config("--data", "x", "--set", "model.weights=random").model.weights == "random"
    (tmp_path / "bundle").mkdir()
    second = ["--set", "fusion.second_weights=a.safetensors", "--set", "fusion.second_model=bundle"]
    fusion = make_config("--data", "x", *second).fusion
    assert (fusion.second_model, fusion.second_weights) == (str(tmp_path / "bundle"), str(tmp_path / "a.safetensors"))
    assert make_config("--data", "x", "--set", "fusion.second_model=resnet18").fusion.second_model == "resnet18"


def test_model_weights_that_are_missing_are_an_error_before_anything_is_done(tmp_path):
    with pytest.raises(UserError, match=r"model\.weights=.*gone\.safetensors cannot be read"):
        make_config("--data", "x", "--set", f"model.weights={tmp_path / 'gone.safetensors'}")


def test_fixed_values_are_read_as_json_where_they_are_json():
    assert cli.parse_fixed(["a=1e-4", "b=null", "c=none", "d=[1, 2]", "e=x=y", " f = 2 "]) == {
        "a": 1e-4,
        "b": None,
        "c": "none",
        "d": [1, 2],
        "e": "x=y",
        "f": 2,
    }
