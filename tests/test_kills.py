"""What is killed under a sweep: a short round of benchmarks/kills.py beside another Ray, and the parts it rests on."""

import errno
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.tune
from pyarrow.fs import LocalFileSystem
from ray.train import Checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.killed_sweep import (
    MOST_SESSIONS,
    KilledSweep,
    Moment,
    Plan,
    check_rungs,
    continues,
    mount_small_disk,
    unmount,
)
from benchmarks.kills import KINDS, plan_kills
from reid_core.config.presets import tiny
from reid_core.errors import UserError
from reid_core.files.atomic import is_full_disk
from reid_core.files.checksums import CHECKSUMS, verify_checksums, write_checksums
from reid_core.metrics.epoch_report import SCORE
from reid_core.training.trainer import CHECKPOINT, KEPT_CHECKPOINTS
from sweeps.machines.resources import Resources
from sweeps.results.journal import Journal, Record
from sweeps.search.suggestion import FINAL, Suggestion
from sweeps.trials.checkpoints import (
    clear_for_restart,
    continue_newest,
    is_whole,
    list_checkpoints,
    load_finished,
    upload,
)
from sweeps.trials.context import SweepContext
from sweeps.trials.tuning import reopen, run_fixed


@pytest.mark.realdata  # with `make test-real`: minutes; its short version is in stages/test_killed_sweep.py
def test_a_sweep_loses_nothing_by_kills_beside_another_ray(local_ray, small_data, tmp_path):
    # With two Rays on a machine, Ray's own cleaner of a stopped trial finds both, and ends with an error.
    sweep = KilledSweep(tmp_path, "sweep", small_data, num_trials=2)
    kinds = [["checkpoint", "interrupt"], ["worker", "data", "cluster"], ["store", "trial driver", "everything"]]
    for *outlived, last in kinds:
        moment = Moment("use", 1) if last == "everything" else Moment("report", 1)
        sweep.run_session([*(Plan(kind, Moment("report", 1)) for kind in outlived), Plan(last, moment)])
    sweep.finish()
    assert sweep.problems == []
    assert [(kill.kind, kill.resumed) for kill in sweep.kills] == [(kind, True) for each in kinds for kind in each]
    assert sweep.num_once == sweep.num_ended >= 2


def test_a_kill_that_never_finds_its_victim_ends(tmp_path, monkeypatch):
    sweep = KilledSweep(tmp_path, "sweep", tmp_path / "data")
    ended = SimpleNamespace(is_over=lambda: True, wait=lambda timeout_s: 0, text=lambda: "")
    monkeypatch.setattr(sweep, "_start", lambda: ended)
    monkeypatch.setattr(sweep, "_strike", lambda session, plan, number: number)
    sweep.run_session([Plan("worker", Moment("report", 2)), Plan("disk", Moment("use", 1))])
    assert [problem.split(" after")[0] for problem in sweep.problems] == [
        f"sweep: {kind}: nothing to kill in {MOST_SESSIONS} sessions" for kind in ("worker", "disk")
    ]


def record(name, scores, status="completed"):
    reports = [{"epoch": epoch, "loss": 1.0, "seconds": 1.0, SCORE: score} for epoch, score in enumerate(scores, 1)]
    return Record(name, {"optim.lr_head": 0.1}, status=status, reports=reports, seconds=float(len(scores)))


def test_a_record_that_changed_is_seen():
    before = record("trial-0000", [0.1, 0.2], "running")
    assert continues(before, record("trial-0000", [0.1, 0.2, 0.3]))
    assert not continues(before, record("trial-0000", [0.1, 0.21, 0.3]))  # trained again
    assert not continues(before, record("trial-0000", [0.1], "running"))
    assert not continues(record("trial-0000", [0.1], "pruned"), record("trial-0000", [0.1, 0.2]))


def test_a_trial_that_was_stopped_by_too_few_rungs_is_seen():
    # Rungs 2 and 4; the second trial's second score is below the median 0.5 of the one before it.
    good = record("trial-0000", [0.5] * 6)
    assert check_rungs([good, record("trial-0001", [0.6, 0.4], "pruned")]) == []
    (problem,) = check_rungs([good, record("trial-0001", [0.6, 0.4, 0.9, 0.9, 0.9, 0.9])])  # as if nothing were known
    assert "trial-0001" in problem
    assert len(check_rungs([good, record("trial-0001", [0.6, 0.6], "pruned")])) == 1
    # An epoch that was never reported would shift a score into the rung before it.
    without_fourth = record("trial-0001", [0.6, 0.6, 0.6, 0.4, 0.9])
    del without_fourth.reports[3]
    assert check_rungs([good, record("trial-0001", [0.6, 0.6, 0.6, 0.4], "pruned")]) == []
    assert check_rungs([good, without_fourth]) == []


def test_every_kind_of_kill_is_planned_once_per_count():
    import random

    for seed in range(20):
        kinds = [plan.kind for sweep in plan_kills(KINDS, random.Random(seed)) for session in sweep for plan in session]
        assert {kind: kinds.count(kind) for kind in KINDS} == KINDS
        assert len(kinds) == 30


def write_checkpoint(storage, name, tmp_path, *, is_whole=True):
    checkpoint = tmp_path / f"checkpoint_{name}"
    checkpoint.mkdir()
    for file in CHECKPOINT:
        (checkpoint / file).write_text(file)
    write_checksums(checkpoint, CHECKPOINT)
    if not is_whole:
        (checkpoint / CHECKPOINT[-1]).unlink()
    for file in checkpoint.iterdir():
        storage.write(f"trial/{checkpoint.name}/{file.name}", file.read_bytes())


def test_half_written_checkpoints_do_not_crowd_out_whole_ones(storage, tmp_path):
    place = storage.filesystem, storage.at("trial")
    clear_for_restart(*place)  # a trial that has none
    for name in "abc":
        write_checkpoint(storage, name, tmp_path)
    for name in "de":  # a process that was killed twice while it wrote
        write_checkpoint(storage, name, tmp_path, is_whole=False)
    clear_for_restart(*place)
    assert KEPT_CHECKPOINTS == 2
    assert [each.path[-1] for each in list_checkpoints(*place)] == ["e", "d", "c", "b"]
    loaded = []
    trainer = SimpleNamespace(load=lambda folder: (verify_checksums(folder, CHECKPOINT), loaded.append(folder)))
    assert continue_newest(trainer, list_checkpoints(*place))
    assert len(loaded) == 1  # c: e and d are damaged, and b is not asked for
    load_finished(trainer, list_checkpoints(*place)[0])
    assert len(loaded) == 2
    write_checkpoint(storage, "f", tmp_path)
    write_checkpoint(storage, "g", tmp_path)
    clear_for_restart(*place)
    assert [each.path[-1] for each in list_checkpoints(*place)] == ["g", "f"]


def test_an_upload_cut_off_anywhere_leaves_no_checkpoint(storage, tmp_path):
    write_checkpoint(storage, "a", tmp_path)  # and as files of this machine
    made, home = Checkpoint.from_directory(str(tmp_path / "checkpoint_a")), (storage.filesystem, storage.at("x"))
    there = upload(*home, made, "checkpoint_1")
    assert [each.path for each in list_checkpoints(*home)] == [there.path] == [f"{home[1]}/checkpoint_1"]
    assert is_whole(there)
    for missing in (*CHECKPOINT, CHECKSUMS):
        file = tmp_path / "checkpoint_a" / missing
        content = file.read_bytes()
        file.unlink()  # copying ends here
        with pytest.raises(FileNotFoundError):
            upload(*home, made, "checkpoint_2")
        file.write_bytes(content)
        assert [each.path for each in list_checkpoints(*home) if is_whole(each)] == [there.path]
        if isinstance(storage.filesystem, LocalFileSystem):  # it can rename: not even a name is left
            assert len(list_checkpoints(*home)) == 1
    clear_for_restart(*home)
    assert is_whole(list_checkpoints(*home)[-1])
    assert not [name for name in storage.list_files("x") if ".part/" in name]


def test_a_full_disk_is_found_in_what_an_error_came_of():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    consequence = UserError("the record cannot be written")
    consequence.__cause__ = full
    assert is_full_disk(consequence)
    assert is_full_disk(RuntimeError(f"RayTaskError: OSError: [errno 28] {os.strerror(errno.ENOSPC)}"))
    assert not is_full_disk(OSError(errno.EACCES, os.strerror(errno.EACCES)))


def test_what_stopped_a_trial_in_the_last_session_does_not_stop_this_one(tmp_path):
    journal = Journal(tmp_path)
    journal.write(Record("trial-0000", {}, status="failed", reason="the loss is nan"))
    journal.write(Record("trial-0001", {}, status="stopped", reason="No space left on device"))
    assert [each.reason for each in reopen(journal)] == ["the loss is nan", ""]
    assert [each.reason for each in journal.read()] == ["the loss is nan", ""]
    assert [each.status for each in journal.read()] == ["failed", "running"]


def fill_then_report(suggestion, *, context):
    """A trial that fills the disk after its first epoch if it is the first to do so."""
    out = Path(context.out)
    reports = [{"epoch": epoch, "loss": 1.0, SCORE: 0.5, "seconds": 0.1} for epoch in (1, 2)]
    ray.tune.report(reports[0])
    ballast = out / "ballast"
    if not ballast.exists() and suggestion.name == "second":
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(2**12)):
                    pass
            except OSError:
                pass
    ray.tune.report(reports[1])
    final = {"objective": 0.5, "metrics": {"objective": 0.5}, "checkpoint_path": "", "history": reports}
    ray.tune.report({FINAL: True, "epoch": 0, SCORE: math.nan, **final})


@pytest.mark.realdata  # a minute
def test_a_full_disk_ends_the_run_with_a_message_and_the_freed_one_continues(local_ray, tmp_path):
    disk = mount_small_disk(tmp_path / "disk", size_mb=8)
    if disk is None:
        pytest.skip("no right to mount a file system")
    try:
        context = SweepContext(tiny(), str(disk), str(disk / "cache"), Resources(concurrent=1, workers=1))
        journal = Journal(disk / "trials")
        rows = [Suggestion(name=name, parameters={}) for name in ("first", "second")]
        with pytest.raises(UserError, match="no space is left on the device; once there is, the same command"):
            run_fixed(rows, context, drive=fill_then_report)
        first = journal.read()[0]
        assert first.status == "completed"
        (disk / "ballast").write_bytes(b"")  # freed, and not filled again
        run_fixed(rows, context, drive=fill_then_report)
        assert journal.read()[0] == first
        assert [(each.name, each.status) for each in journal.read()] == [
            ("first", "completed"),
            ("second", "completed"),
        ]
        assert [report["epoch"] for report in journal.read()[1].reports] == [1, 2]
    finally:
        unmount(disk)
