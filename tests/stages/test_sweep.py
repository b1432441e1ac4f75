"""What a sweep's script does before it runs: its flags, the dry run, and whose result folder it is."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from reid_core.config.presets import tiny
from reid_core.config.values import NEWER_KEYS, override
from reid_core.config.yaml_files import write_config
from reid_core.errors import UserError
from reid_core.experiment.prepare import LOCAL
from reid_core.files.checksums import write_sealed
from sweeps import metric
from sweeps.machines.limits import Limits
from sweeps.machines.resources import Resources
from sweeps.results.journal import Record
from sweeps.results.result_folder import SETTINGS, claim_out
from sweeps.search.candidates import Choices
from sweeps.stages import run_search
from sweeps.stages.choose_best import why_ended
from sweeps.stages.command_line import make_parser, make_sweep
from sweeps.stages.run_search import count_left


def test_a_dry_run_shows_everything_and_runs_nothing(small_data, tmp_path, capsys):
    status = metric.main(["--data", str(small_data), "--preset", "tiny", "--out", str(tmp_path / "out"), "--plan"])
    shown = capsys.readouterr().out
    assert status == 0
    assert "50 trials × 6 epochs" in shown
    assert "optim.lr_head" in shown
    assert "5 logical CPUs" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("gpus", "address", "done"),
    [(0.0, None, ("provide", 9)), (1.0, None, ("close",)), (0.0, "10.0.0.1:6379", ("close",))],
    ids=["here", "networks on GPUs", "a cluster"],
)
def test_slots_never_hold_what_preparing_asks_ray_for(monkeypatch, small_data, tmp_path, gpus, address, done):
    def prepare(*given, spread, **options):
        assert (spread is LOCAL) == (done[0] == "provide")
        raise PreparedError

    calls, resources = [], Resources(gpus_per_worker=gpus)
    done_by = {"provide": lambda number: calls.append(("provide", number)), "close": lambda: calls.append(("close",))}
    pool = SimpleNamespace(resources=resources, **done_by)
    monkeypatch.setattr(run_search, "prepare", prepare)
    monkeypatch.delenv("RAY_JOB_ID", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    flags = ["--data", str(small_data), "--preset", "tiny", "--out", str(tmp_path), "--trials", "9"]
    sweep = make_sweep("metric", metric.metric_space, make_parser("").parse_args(flags))
    with pytest.raises(PreparedError):
        run_search.prepare_trials(sweep, small_data, tmp_path, pool, None)
    assert calls == [done]


class PreparedError(Exception):
    """Preparing has begun."""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trials", "0"], "--trials 0"),
        (["--workers", "0", "--plan"], "--workers 0"),
        (["--set", "optim.lr=1"], "unknown key 'optim.lr'"),
        (["--set", "optim.epochs=many"], "wrong type"),
        (["--set", "optim.epochs"], "KEY=VALUE"),
        (["--config", "no-such.yaml"], "no-such.yaml"),
    ],
)
def test_wrong_flags_are_named(small_data, tmp_path, flags, message):
    preset = [] if "--config" in flags else ["--preset", "tiny"]
    with pytest.raises(UserError, match=message):
        metric.main(["--data", str(small_data), "--out", str(tmp_path / "out"), *preset, *flags])


def test_an_out_of_another_sweep_is_refused_by_what_differs(small_data, tmp_path):
    def settings(*more):
        flags = ["--data", str(small_data), "--preset", "tiny", "--out", str(tmp_path), *more]
        return make_sweep("metric", metric.metric_space, make_parser("").parse_args(flags)).settings()

    claim_out(tmp_path, settings(), resume="auto")
    claim_out(tmp_path, settings("--trials", "60", "--concurrent", "2"), resume="auto")
    before = {key: value for key, value in settings().items() if key not in NEWER_KEYS}
    write_sealed(tmp_path / SETTINGS, before)  # of an earlier version
    claim_out(tmp_path, settings(), resume="auto")
    with pytest.raises(UserError, match=r"optim.epochs: 6 before, 3 now"):
        claim_out(tmp_path, settings("--set", "optim.epochs=3"), resume="auto")
    with pytest.raises(UserError, match="seed: 0 before, 1 now"):
        claim_out(tmp_path, settings("--seed", "1"), resume="auto")
    with pytest.raises(UserError, match="--resume auto"):
        claim_out(tmp_path, settings(), resume="never")


def aggregates(suggest):
    suggest("predict.aggregate", Choices(("max", "mean")))


def test_no_configuration_is_tried_twice_however_many_trials_are_asked_for(small_data, tmp_path):
    flags = ["--data", str(small_data), "--preset", "tiny", "--out", str(tmp_path), "--trials", "4"]
    sweep = make_sweep("metric", aggregates, make_parser("").parse_args(flags))
    first, second = (Record(f"trial-000{n}", {"predict.aggregate": name}) for n, name in enumerate(("max", "mean")))
    assert count_left(sweep, []) == 2
    assert count_left(replace(sweep, num_trials=1), []) == 1
    assert count_left(sweep, [first]) == 2  # to be ended, and to be begun
    first.status, second.status = "completed", "failed"
    assert count_left(sweep, [first]) == 1
    assert count_left(sweep, [first, second]) == 0
    twice = replace(first, name="trial-0002")  # by an earlier version
    assert count_left(sweep, [first, twice]) == 1
    assert why_ended(sweep, [first], Limits()) is None
    assert why_ended(sweep, [first, second], Limits()) == "all 2 configurations were tried"
    assert why_ended(sweep, [first, second], Limits(max_failures=1)).startswith("--max-failures 1")
    assert why_ended(replace(sweep, num_trials=2), [first, second], Limits()) is None
    fixed = make_sweep("metric", aggregates, make_parser("").parse_args([*flags, "--set", "predict.aggregate=max"]))
    assert count_left(fixed, []) == 1
    assert why_ended(fixed, [replace(first, parameters={})], Limits()) == "the only configuration was tried"


def test_trials_outside_what_is_left_out_now_are_no_trials_of_it(small_data, tmp_path):
    """An earlier session, on other machines, left out other values."""

    def batches(suggest):
        suggest("optim.batch_size", Choices((8, 16, 32, 64)))

    flags = ["--data", str(small_data), "--preset", "tiny", "--out", str(tmp_path), "--trials", "20"]
    sweep = make_sweep("metric", batches, make_parser("").parse_args(flags))
    records = [Record(f"trial-000{n}", {"optim.batch_size": size}, "pruned") for n, size in enumerate((16, 32, 64))]
    assert count_left(sweep, records) == 1
    sweep = replace(sweep, space=replace(sweep.space, left_out=(("optim.batch_size", (32, 64)),)))
    assert count_left(sweep, records) == 1
    assert count_left(sweep, records[1:]) == 2
    assert why_ended(sweep, records[1:], Limits()) is None
    records[2].status = "running"  # it is ended too
    assert count_left(sweep, records[1:]) == 3
    eight = Record("trial-0003", {"optim.batch_size": 8}, "pruned")
    records[2].status = "pruned"
    assert why_ended(sweep, [*records, eight], Limits()) == "all 2 configurations were tried"
    assert count_left(replace(sweep, num_trials=1), records) == 0


def test_a_config_file_starts_the_sweep_from_there(small_data, tmp_path, capsys):
    write_config(tmp_path / "best.yaml", override(tiny(), {"optim.lr_head": 5e-3}))
    flags = [
        "--data",
        str(small_data),
        "--config",
        str(tmp_path / "best.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--plan",
    ]
    assert metric.main(flags) == 0
    assert "first trial: 0.005" in capsys.readouterr().out
