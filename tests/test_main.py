"""`python -m reid_core`: what it prints it has written, and `testSet` is used once however often it is printed."""

import builtins
import shutil

import pyarrow.parquet as pq
import pytest
from PIL import Image

from reid_core.__main__ import describe_result, main
from reid_core.data.test_set import USES, read_uses
from reid_core.metrics.result import RESULT, SINGLE, read_result

SHORT = ["--preset", "tiny", "--set", "optim.epochs=0", "--set", "match.matcher=none"]
ENCODING = UnicodeEncodeError("ascii", "æ", 0, 1, "ordinal not in range(128)")


def test_an_interrupted_print_never_costs_a_use_of_the_test_set(small_data, tmp_path, monkeypatch, capsys):
    out, arguments = tmp_path / "out", ["--data", str(small_data), "--out", str(tmp_path / "out"), *SHORT]
    shown, whole = [], builtins.print

    def interrupted(*values, **options):
        if (out / USES).exists():
            shown.append(values)
            raise error
        whole(*values, **options)

    for error in (ENCODING, BrokenPipeError(32, "Broken pipe"), KeyboardInterrupt()):
        with monkeypatch.context() as patch:
            patch.setattr(builtins, "print", interrupted)
            with pytest.raises(type(error)):
                main(arguments)
        assert (out / RESULT).exists()
    assert len(shown) == 3
    capsys.readouterr()
    assert main(arguments) == 0
    again = capsys.readouterr().out
    assert "nothing was run" in again
    assert again.endswith(f"{shown[0][0]}\n")  # just what was to be printed the first time
    assert "testSet was used once." in again
    assert len(read_uses(out)) == 1
    assert describe_result(read_result(out, SINGLE), out) == shown[0][0]


def test_what_is_noticed_in_training_stands_in_the_result_the_text_and_the_bundle(small_data, tmp_path, capsys):
    still = [f"optim.lr_{part}=0" for part in ("head", "stages", "norm")]
    learned = ["optim.epochs=1", "optim.batch_size=8", "match.matcher=none", "data.image_px=32"]
    flags = [word for setting in (*learned, *still) for word in ("--set", setting)]
    assert main(["--data", str(small_data), "--out", str(tmp_path / "out"), "--preset", "tiny", *flags]) == 0
    found = read_result(tmp_path / "out", SINGLE).findings
    assert [(finding.where, finding.what.split(" in ")[0]) for finding in found][:1] == [
        ("training", "nothing was learned")
    ]
    printed, readme = capsys.readouterr().out, (tmp_path / "out" / "best" / "README.md").read_text("utf-8")
    assert f"  {found[0]}\n" in printed
    assert "* training: nothing was learned" in readme


def test_what_fine_tuning_added_stands_in_the_result_the_text_and_the_bundle(small_data, tmp_path, capsys):
    """Without a head or training the model is the frozen backbone: every gain is 0."""
    bare = ["optim.epochs=0", "model.head=none", "match.matcher=none", "data.image_px=32"]
    flags = [word for setting in bare for word in ("--set", setting)]
    out = tmp_path / "out"
    assert main(["--data", str(small_data), "--out", str(out), "--preset", "tiny", *flags]) == 0
    result = read_result(out, SINGLE)
    assert result.gains.keys() == result.metrics.keys()
    for part, gain in result.gains.items():
        assert gain["epoch0"] == pytest.approx(result.metrics[part]["mean_of_groups"])
        assert (gain["gain"], gain["gain_low"], gain["gain_high"]) == (0, 0, 0)
    printed = capsys.readouterr().out
    assert "epoch 0  geo_mean_cosine" in printed
    assert "fine-tuning added nothing: the frozen backbone (epoch 0) is as good" in printed
    assert "## What fine-tuning added" in (out / "best" / "README.md").read_text("utf-8")
    assert len(read_uses(out)) == 1
    answers = pq.read_table(out / "predictions.parquet")
    assert answers["answer_epoch0"].equals(answers["answer"])


def test_black_photographs_are_noticed_where_nothing_is_trained(small_data, tmp_path):
    data = shutil.copytree(small_data, tmp_path / "data")
    for file in data.rglob("*.jpg"):
        Image.new("RGB", (32, 32)).save(file)
    flags = [word for setting in ("optim.epochs=0", "data.image_px=32") for word in ("--set", setting)]
    flags += ["--set", "match.matcher=none"]
    assert main(["--data", str(data), "--out", str(tmp_path / "out"), "--preset", "tiny", *flags]) == 0
    found = read_result(tmp_path / "out", SINGLE).findings
    assert [finding.what.split(":")[0] for finding in found if finding.where == "training"] == [
        "all embeddings of a group are alike in the chosen model"
    ]
