"""`--plan` and the run refuse the same with the same words, and the run does so before it starts anything."""

import re
import shutil

import pyarrow.csv
import pytest

from reid_core.command import CLAIM
from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.errors import UserError
from reid_core.experiment.prepare import DATA
from reid_core.files.checksums import write_sealed
from sweeps import metric, paper
from sweeps.results.journal import Journal, Record
from sweeps.results.result_folder import claim_out
from sweeps.search.space import SearchSpace, metric_space
from sweeps.stages import sweep as sweep_stage
from sweeps.stages.checks import room

SMALL = ["--set", "match.num_keypoints=32", "--set", "match.image_px=64"]
SMALL += ["--set", "loss.name=triplet", "--set", "data.images_per_identity=4"]
SWEEPS = {
    "no trials": ("--trials 0", r"--trials 0"),
    "no workers": ("--workers 0", r"--workers 0"),
    "no data CPUs": ("--data-cpus 0.05", r"--data-cpus 0\.05"),
    "zero data CPUs": ("--data-cpus 0", r"--data-cpus 0\.0: must be at least 0\.1"),
    "more data CPUs": ("--data-cpus 4096", r"--data-cpus 4096: this machine has \d+ CPUs; .*give at most"),
    "odd data CPUs": ("--data-cpus nan", r"--data-cpus nan"),
    "missing GPUs": ("--gpus-per-worker 64", r"needs 128 GPUs .* the cluster has 0"),
    "shared GPU": ("--gpus-per-worker 0.5", r"--workers 1.*NCCL"),
    "odd GPUs": ("--gpus-per-worker 1.5", r"only whole GPUs"),
    "no time": ("--time-budget soon", r"--time-budget soon"),
    "no patience": ("--give-up-after soon", r"--give-up-after soon: expected a time"),
    "negative failures": ("--max-failures -1", r"--max-failures -1"),
    "negative hours": ("--max-gpu-hours -2", r"--max-gpu-hours -2"),
    "negative confirmation": ("--confirm -1", r"--confirm -1"),
    "one run": ("--confirm-runs 1", r"--confirm-runs 1"),
    "unknown key": ("--set optim.lr=1", r"unknown key 'optim\.lr'"),
    "wrong type": ("--set optim.epochs=many", r"wrong type"),
    "no value": ("--set optim.epochs", r"KEY=VALUE"),
    "no such data": ("--data NOWHERE", r"NOWHERE"),
    "batch and workers": ("--set optim.batch_size=32 --workers 3", r"cannot be divided among 3 workers"),
    "batch and images": ("--set optim.batch_size=30", r"not a multiple of data\.images_per_identity"),
    "large batch": ("--set optim.batch_size=4096", r"needs 1024 identities; training has"),
    "no pairs": ("--set data.undersample_to=1", r"needs two images of one identity"),
    "stages": ("--set model.unfrozen_stages=9", r"unfrozen_stages=9: the backbone has 4 stages"),
    "searched stages": (
        "--search model.unfrozen_stages=0,9",
        r"--search model\.unfrozen_stages: no trial can have .*=9",
    ),
    "searched batch": ("--search optim.batch_size=31..33", r"--search optim\.batch_size: .*=31: .* 2 workers"),
    "unknown backbone": ("--set model.backbone=no_such_net", r"model\.backbone=no_such_net"),
    "untrained backbone": (
        "--set model.backbone=swin_micro_patch4_window4_64",
        r"swin_micro_patch4_window4_64 has no pretrained weights",
    ),
    "unreachable weights": ("--set model.backbone=resnet18 --set model.weights=pretrained", r"resnet18 cannot be had"),
    "missing weights": ("--set model.weights=gone.safetensors", r"gone\.safetensors cannot be read"),
    "other weights": ("--set model.backbone=resnet18 --set model.weights=JUNK", r"junk\.safetensors cannot be made"),
    "kept activations": ("--set model.keep_activations=true", r"model\.keep_activations with"),
    "activations of sides": (
        "--set model.keep_activations=true --set model.unfrozen_stages=0 --set model.orientation=input",
        r"model\.keep_activations with model\.orientation=input",
    ),
    "room for activations": (
        "--set model.keep_activations=true --set model.unfrozen_stages=1 --set model.activations_gb=1e-6",
        r"model\.activations_gb=1e-06: the activations of \d+ images need",
    ),
    "matcher's weights": ("--set match.matcher=aliked-lightglue --set match.weights=EMPTY", r"aliked-n16\.pth"),
    "second folder": ("--set fusion.second_model=/nowhere/at/all", r"fusion\.second_model=.*no such folder"),
    "second backbone": ("--set fusion.second_model=no_such_net", r"no_such_net"),
    "cut-off": ("--set data.split=time_cutoff --set data.cutoff_date=1900-01-01", r"data\.cutoff_date=1900-01-01"),
    "idle cut-off": ("--set data.cutoff_date=2020-01-01", r"data\.cutoff_date=2020-01-01 is not used by"),
    "unknown group": ("--group lynx", r"--group lynx: .* has no such group"),
    "all groups": (
        "--group all --set optim.batch_size=4096",
        r"no group has a result:\ngroup .* 1024 identities",
    ),
    "groups as goals": ("--group all --objective each_group", r"--objective each_group: with --group"),
    "warm start": ("--warm-start NOWHERE", r"--warm-start .*: holds no sweep"),
    "locked key": ("--search data.split", r"cannot be searched"),
    "online already": ("--then-online", r"augments online in the search already"),
    "refit and online": ("--refit --then-online --set data.variants=2", r"--refit and --then-online"),
    "work": ("--work EMPTY", r"--work .*: is for an --out that is a URI"),
    "file": ("--out FILE/out", r"--out .*: cannot be written: Not a directory"),
    "another sweep": ("--out OTHER", r"--out .* holds a sweep with other settings"),
    "single run": ("--out SINGLE", r"holds a single run"),
    "resumed": ("--out OTHER --resume never", r"--resume auto continues it"),
    "groups of another sweep": ("--out OTHER --group all", r"by_group: None before, True now"),
}
HERDS = {  # images of each animal, none of which has a date or a side
    "six animals": ([4] * 6, "", r"needs 8 identities; training has"),
    "nothing to find": ([1] * 12, "", r"no group has both known and new animals"),
    "no sides to match": (
        [4] * 12,
        "--set match.same_side=true",
        r"^match\.same_side=true: no labelled row says",
    ),
    "no sides to learn": ([4] * 12, "--set model.orientation=input", r"^model\.orientation=input: no labelled row"),
    "no sides to search": ([4] * 12, "--search match.same_side", r"--search match\.same_side: .* no labelled row"),
    "no days to split": ([4] * 12, "--set data.split=time_proportion", r"^data\.split=time_proportion needs dates"),
    "no days to cut": ([4] * 12, "--set data.split=time_cutoff", r"^data\.split=time_cutoff needs dates"),
    "no encounters": ([4] * 12, "--set data.whole_encounters=true", r"^data\.whole_encounters=true needs dates"),
}


class StartedError(Exception):
    """The run has passed its checks."""


@pytest.fixture
def starts(monkeypatch):
    """Nothing is started: what would be is an error of the test's own."""

    def start(machines):
        raise StartedError

    monkeypatch.setattr(sweep_stage, "start_ray", start)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What flags name."""
    folder = tmp_path_factory.mktemp("flags")
    for name in ("empty", "other", "single"):
        (folder / name).mkdir()
    (folder / "file").touch()
    (folder / "junk.safetensors").write_bytes(b"no weights")
    (folder / "single" / CLAIM).touch()
    claim_out(folder / "other", {"script": "metric"}, resume="auto")
    return {
        "NOWHERE": folder / "NOWHERE",
        "EMPTY": folder / "empty",
        "FILE": folder / "file",
        "OTHER": folder / "other",
        "SINGLE": folder / "single",
        "JUNK": folder / "junk.safetensors",
    }


def refusal(main, flags) -> str:
    with pytest.raises(UserError) as error:
        main(flags)
    return str(error.value)


def answers(data, out, *more: str) -> tuple[str, str]:
    """Why the plan, and why the run refuses a sweep."""
    flags = ["--data", str(data), "--out", str(out), *([] if "--preset" in more else ["--preset", "tiny"]), *SMALL]
    planned = refusal(metric.main, [*flags, *more, "--plan"])
    assert not out.exists()
    return planned, refusal(metric.main, [*flags, *more])


@pytest.mark.parametrize(("flags", "message"), SWEEPS.values(), ids=SWEEPS.keys())
def test_the_plan_refuses_what_the_run_refuses(flags, message, small_data, tmp_path, folders, starts, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, folder in folders.items():
        flags = flags.replace(name, str(folder))
    planned, run = answers(small_data, tmp_path / "out", *flags.split())
    assert planned == run
    assert re.search(message, run), run
    assert not (tmp_path / "out" / "sweep.json").exists()  # what was refused is nobody's: with other flags it is free


@pytest.mark.parametrize(("counts", "flags", "message"), HERDS.values(), ids=HERDS.keys())
def test_the_plan_refuses_data_that_the_run_refuses(counts, flags, message, small_data, tmp_path, starts):
    root = copy_herd(small_data, tmp_path / "herd", counts)
    planned, run = answers(root, tmp_path / "out", *flags.split())
    assert planned == run
    assert re.search(message, run), run


def copy_herd(data, root, counts):
    """Photographs of drawn animals under other names: so many of each."""
    rows = pyarrow.csv.read_csv(data / "metadata.csv").to_pylist()
    root.mkdir()
    lines = ["image_id,identity,path,date,orientation,species,split,dataset"]
    animals = [animal for animal, count in enumerate(counts) for _ in range(count)]
    for number, (animal, row) in enumerate(zip(animals, rows, strict=False)):
        shutil.copy(data / row["path"], root / f"{number}.png")
        lines.append(f"{number},animal-{animal},{number}.png,,,,database,herd")
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


def test_a_good_sweep_is_planned_and_started(small_data, tmp_path, starts, capsys):
    flags = ["--data", str(small_data), "--out", str(tmp_path / "out"), "--preset", "tiny", *SMALL]
    assert metric.main([*flags, "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "it fits; nothing was run" in shown
    assert "on disk if no trial is pruned early" in shown
    with pytest.raises(StartedError):
        metric.main(flags)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(small_data, tmp_path, starts, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    planned, run = answers(small_data, tmp_path / "out")
    assert planned == run
    assert "--out" in run
    assert "0.1 MB are free" in run


def test_a_table_that_changed_is_refused_before_photographs_are_read(small_data, tmp_path, starts):
    cache = tmp_path / "out" / "cache"
    cache.mkdir(parents=True)
    write_sealed(cache / DATA, {"metadata.csv": "of another day", "photographs": ""})
    flags = ["--data", str(small_data), "--out", str(tmp_path / "out"), "--preset", "tiny", *SMALL]
    planned = refusal(metric.main, [*flags, "--plan"])
    assert planned == refusal(metric.main, flags)
    assert re.search(r"changed since .*cache was prepared from it: metadata\.csv; bring back", planned)


LEFT = ("priors.json", "result.json", "test_set_uses.json", "confirm/trials/trial-0000-run1.json")


@pytest.mark.parametrize("name", ["trials/trial-0001.json", *LEFT])
def test_what_a_resumed_sweep_reads_is_read_before(name, small_data, tmp_path, starts):
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    claim_out(other, {"script": "metric"}, resume="auto")
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("[")
    flags = ["--data", str(small_data), "--out", str(out), "--preset", "tiny", *SMALL, "--warm-start", str(other)]
    planned = refusal(metric.main, [*flags, "--plan"])
    assert planned == refusal(metric.main, flags)
    assert re.search(rf"{re.escape(name)}: .*damaged", planned)


def test_the_plan_of_a_resumed_sweep_counts_what_is_left(small_data, tmp_path, capsys):
    flags = ["--data", str(small_data), "--out", str(tmp_path), "--preset", "tiny", *SMALL, "--trials", "9", "--plan"]
    space = SearchSpace(metric_space, override(tiny(), {"loss.name": "triplet"}))
    journal = Journal(tmp_path / "trials")
    for number, status in enumerate(("completed", "infeasible", "running")):
        journal.write(Record(f"trial-000{number}", space.base_point() | {"optim.batch_size": 64}, status))
    assert metric.main(flags) == 0
    assert re.search(r"\n2 of 9 trials have ended; what is left:\n7 trials × ", capsys.readouterr().out)
    journal.write(Record("trial-0003", {"optim.lr": 1.0}, "completed"))
    assert "not of this search space" in refusal(metric.main, flags)


def test_the_sources_of_every_group_are_read_before(small_data, tmp_path, starts):
    flags = ["--group", "all", "--warm-start", str(tmp_path / "nowhere"), "--plan"]
    common = ["--data", str(small_data), "--out", str(tmp_path / "out"), "--preset", "tiny", *SMALL]
    assert re.search(
        r"no group has a result:\n.*--warm-start .*holds no sweep", refusal(metric.main, [*common, *flags])
    )


def test_what_was_noticed_in_the_table_comes_before_the_error_that_it_causes(small_data, tmp_path, starts, caplog):
    root = copy_herd(small_data, tmp_path / "herd", [6] * 8)
    text = (root / "metadata.csv").read_text("utf-8")
    (root / "metadata.csv").write_text(text.replace(".png,,", ".png,3/4/2020,"), "utf-8")
    planned, run = answers(root, tmp_path / "out", "--set", "data.whole_encounters=true")
    assert planned == run
    assert "needs dates" in run
    assert [record.message.count("'3/4/2020'") for record in caplog.records if "'3/4/2020'" in record.message] == [5, 5]


def test_a_group_that_cannot_be_swept_does_not_keep_the_others_from_it(small_data, tmp_path, starts, capsys):
    flags = ["--data", str(small_data), "--out", str(tmp_path / "out"), "--preset", "tiny", *SMALL, "--plan"]
    few = ["--set", "optim.batch_size=16", "--group", "all"]
    assert metric.main([*flags, *few]) == 0
    assert capsys.readouterr().out.count("first trial:") > 0
    assert "no group has a result" in refusal(metric.main, [*flags, "--set", "optim.batch_size=4096", "--group", "all"])


ACTIVATIONS = (
    "model.unfrozen_stages=1",
    "model.keep_activations=true",
    "data.variants=1",
    "model.activations_gb=1e-9",
)
COMPARED = ["--scale", "small", "--rows", "starter,batch32"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "5"], r"cannot be divided among 5 workers"),
        (["--data-cpus", "0.01"], r"--data-cpus 0\.01"),
        (["--set", "model.unfrozen_stages=9"], r"unfrozen_stages=9"),
        (
            [part for value in ACTIVATIONS for part in ("--set", value)],
            r"model\.activations_gb=1e-09: the activations of \d+ images need",
        ),
    ],
)
def test_the_plan_of_a_comparison_refuses_what_it_refuses(flags, message, small_data, tmp_path, monkeypatch):
    assert re.search(message, refuse_comparison([*flags, "--data", str(small_data)], tmp_path, monkeypatch))


def test_a_comparison_without_room_or_on_a_table_that_changed_is_refused(small_data, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(room.shutil, "disk_usage", lambda path: usage._replace(free=100_000))
        assert "0.1 MB are free" in refuse_comparison(["--data", str(small_data)], tmp_path, monkeypatch)
    cache = tmp_path / "out" / "cache"
    cache.mkdir(parents=True)
    write_sealed(cache / DATA, {"metadata.csv": "of another day", "photographs": ""})
    assert "changed since" in refuse_comparison(["--data", str(small_data)], tmp_path, monkeypatch)


def refuse_comparison(flags, tmp_path, monkeypatch) -> str:
    """Why the plan of a comparison, and why the comparison refuses; they agree, and nothing is claimed."""
    monkeypatch.setattr("sweeps.comparison.run.start_ray", lambda machines: pytest.fail("started"))
    common = ["--out", str(tmp_path / "out"), *COMPARED, *flags]
    planned = refusal(paper.main, [*common, "--plan"])
    assert planned == refusal(paper.main, common)
    assert not (tmp_path / "out" / "sweep.json").exists()
    return planned


@pytest.mark.parametrize(
    ("marks", "flags", "message"),
    [
        ({"sweep.json": {"script": "metric"}}, [], r"--out .*work holds a sweep with other settings"),
        ({"sweep.json": {"script": "metric"}}, ["--resume", "never"], r"--resume auto continues it"),
        ({"groups.json": {"groups": {"SpotsID": "SpotsID"}}}, ["--group", "all"], r"the sweeps of --group SpotsID"),
        ({"sweep.json": "{}"}, [], r"file://.*/remote: sweep\.json: damaged"),
        ({"../work/notes.txt": "mine"}, [], r"--work .*: is not empty, and not the working folder of file://"),
    ],
)
def test_what_a_storage_holds_is_seen_by_the_plan(marks, flags, message, small_data, tmp_path, starts):
    (tmp_path / "remote").mkdir()
    for name, content in marks.items():
        file = tmp_path / "remote" / name
        if ".." in name:
            (tmp_path / "work").mkdir()
        if isinstance(content, dict):
            write_sealed(file, content)
        else:
            file.write_text(content)
    there = sorted(tmp_path.rglob("*"))
    where = ["--out", f"file://{tmp_path}/remote", "--work", str(tmp_path / "work"), "--data", str(small_data)]
    planned = refusal(metric.main, [*where, "--preset", "tiny", *SMALL, *flags, "--plan"])
    assert re.search(message, planned), planned
    assert sorted(tmp_path.rglob("*")) == there
    assert planned == refusal(metric.main, [*where, "--preset", "tiny", *SMALL, *flags])
