"""Ray's traps on plain, tiny trials; Ray Data gives what plain Python gives."""

import functools
import hashlib
import math
import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.tune

from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.errors import UserError
from reid_core.experiment.prepare import load_database
from reid_core.metrics.epoch_report import SCORE
from reid_core.training.augment import Augmenter
from reid_core.training.batch_plan import make_plan, make_pool
from reid_core.training.batches import local_batches, make_source
from reid_core.training.variants import build_variants
from sweeps.machines import waiting
from sweeps.machines.limits import Limits
from sweeps.machines.resources import Resources, driver_resources
from sweeps.machines.waiting import WaitedTooLongError
from sweeps.results.journal import Journal
from sweeps.search.optuna_search import JournalSearch
from sweeps.search.space import SearchSpace, metric_space
from sweeps.search.suggestion import FAILED, FINAL, Suggestion
from sweeps.stages.command_line import make_parser, make_sweep
from sweeps.stages.run_search import make_scheduler
from sweeps.stages.sweep import complete
from sweeps.trials import stream as stream_module
from sweeps.trials.batch_task import make_batch
from sweeps.trials.context import SweepContext
from sweeps.trials.progress import Progress
from sweeps.trials.slots.pool import keep_slots
from sweeps.trials.stream import ray_map, stream_batches
from sweeps.trials.tuning import run_fixed

EPOCHS = 4
HALF_A_CPU = Resources(data_cpus_per_worker=0.5)
SCORES = {  # per epoch; the best is not the last
    "trial-0000": [0.5, 0.9, 0.6, 0.5],
    "trial-0001": [0.9, 0.1, 0.9, 0.9],
    "trial-0002": [0.6, 0.95, 0.8, 0.7],
    "trial-0003": [],
    "trial-0004": [0.9, 0.0],
}


def pretend(config):
    """A trial that only reports: `SCORES`, then the best of them as its objective."""
    name = config["name"]
    same = {"loss": 0.1, "seconds": 0.0, "accuracy_validating": 0.0}
    reports = [{"epoch": epoch, SCORE: score, **same} for epoch, score in enumerate(SCORES[name], start=1)]
    for report in reports:
        ray.tune.report(report)
    final = {FINAL: True, "epoch": 0, SCORE: math.nan}
    if name == "trial-0003":
        ray.tune.report(final | {FAILED: "the loss is nan", "status": "failed"})
    else:
        best = {"objective": max(SCORES[name]), "metrics": {"geo_mean.cow": 0.5}, "checkpoint_path": name}
        ray.tune.report(final | best | {"history": reports})


def run(journal, num_trials, out):
    search = JournalSearch(SearchSpace(metric_space, tiny()), journal)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(pretend, driver_resources(ray.cluster_resources())),
        tune_config=ray.tune.TuneConfig(
            metric=SCORE,
            mode="max",
            num_samples=num_trials,
            max_concurrent_trials=1,
            search_alg=search,
            scheduler=make_scheduler(EPOCHS, journal.read()),
        ),
        run_config=ray.tune.RunConfig(
            storage_path=str(out / "tune"), verbose=0, callbacks=[Progress(num_trials, tiny(), journal, out)]
        ),
    )
    tuner.fit()
    return journal.by_name()


def test_trials_end_as_they_did_and_a_second_session_remembers_them(local_ray, tmp_path):
    """Pruned is not complete, the objective is the best epoch's, a failure has its reason, and nothing hangs."""
    journal = Journal(tmp_path / "trials")
    ended = run(journal, 4, tmp_path)
    statuses = {name: record.status for name, record in ended.items()}
    assert statuses == {
        "trial-0000": "completed",
        "trial-0001": "pruned",
        "trial-0002": "completed",
        "trial-0003": "failed",
    }
    assert [ended[name].objective for name in ("trial-0000", "trial-0002")] == [0.9, 0.95]
    assert len(ended["trial-0000"].reports) == EPOCHS  # ASHA did not stop it before its final report
    assert len(ended["trial-0001"].reports) == 2  # never after one epoch
    assert ended["trial-0003"].reason == "the loss is nan"

    again = run(journal, 1, tmp_path)
    assert {name: again[name] for name in ended} == ended
    assert again["trial-0004"].status == "pruned"  # by rungs that the first session filled
    table = pq.read_table(tmp_path / "trials.parquet")
    assert table["trial_id"].to_pylist() == sorted(SCORES)


def test_a_hopeless_sweep_ends_early_and_lists_the_reasons(local_ray, small_data, tmp_path):
    flags = ["--data", str(small_data), "--preset", "tiny", "--out", str(tmp_path), "--trials", "9"]
    impossible = ["--set", "model.unfrozen_stages=9", "--set", "match.matcher=none"]
    sweep = make_sweep("metric", metric_space, make_parser("").parse_args([*flags, *impossible]))
    none_completed = pytest.raises(UserError, match=r"no trial was completed \(--max-failures 2: 2 trials have failed")
    with keep_slots(Resources(workers=1), tmp_path) as pool, none_completed as error:
        complete(sweep, tmp_path, Limits(max_failures=2), pool=pool)
    for name in ("trial-0000", "trial-0001"):
        assert f"{name} infeasible: model.unfrozen_stages=9: the backbone has 4 stages" in str(error.value)
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["infeasible", "infeasible"]


@pytest.fixture(scope="module")
def cached(small_data, tmp_path_factory):
    database = load_database(small_data).slice(0, 60)
    folder = tmp_path_factory.mktemp("cache")
    path = build_cache(folder, small_data, database["path"].to_pylist(), 32)
    return path, database


def test_ray_data_decodes_what_plain_python_decodes(local_ray, cached, small_data, tmp_path):
    path, database = cached
    spread = build_cache(tmp_path, small_data, database["path"].to_pylist(), 32, map_chunks=ray_map)
    assert spread.name == path.name
    rows = np.arange(len(database))
    assert np.array_equal(ImageCache(spread).pixels(rows), ImageCache(path).pixels(rows))


@contextmanager
def hold_cpus(amount):
    """Other trials have so many CPUs."""

    class Holder:
        def ready(self):
            return True

    holder = ray.remote(num_cpus=amount)(Holder).remote()
    ray.get(holder.ready.remote())
    try:
        yield
    finally:
        ray.kill(holder)


def starve(suggestion, *, context):
    """A trial that waits for what is nowhere."""
    ray.get(ray.remote(num_cpus=100, scheduling_strategy="DEFAULT")(pretend).remote({}))


def test_trials_that_wait_in_vain_end_the_run_with_what_they_waited_for(local_ray, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(waiting, "LOOK_S", 0.5)
    monkeypatch.setattr(waiting, "QUIET_S", 2.0)
    resources = Resources(workers=1, patience_s=6.0)
    context = SweepContext(tiny(), str(tmp_path), str(tmp_path / "cache"), resources)
    message = r"the next report of first \(epoch 1\); not to be had: 1 × 100 CPU; free: 3\.99 CPU"
    with pytest.raises(WaitedTooLongError, match=message):
        run_fixed([Suggestion(name="first", parameters={})], context, drive=starve)
    assert "waiting for" in caplog.text
    assert Journal(tmp_path / "trials").by_name()["first"].status == "running"  # the next session continues it


@pytest.mark.parametrize("gpus_per_worker", [0, 0.5])
def test_chunks_come_back_in_order_from_tasks_and_from_gpu_actors(local_ray, gpus_per_worker):
    chunks = [[3, 1], [2], [9, 8, 7]]
    with hold_cpus(3):
        found = ray_map(_with_its_gpus, chunks, gpus_per_worker=gpus_per_worker)
        rows = [row for table in found for row in table.to_pylist()]
    assert [row["n"] for row in rows] == [3, 1, 2, 9, 8, 7]
    assert {row["gpus"] for row in rows} == {1 if gpus_per_worker else 0}


def _with_its_gpus(chunk):
    return pa.table({"n": chunk, "gpus": [len(ray.get_gpu_ids())] * len(chunk)})


@pytest.mark.parametrize("variants", [None, 2], ids=["online", "offline"])
def test_ray_data_streams_the_pixels_of_plain_python_to_every_rank(local_ray, cached, tmp_path, variants):
    path, database = cached
    changes = {"optim.batch_size": 8, "optim.epochs": 2, "data.oversample_to": 4, "data.variants": variants, "seed": 3}
    config, cache = override(tiny(), changes), ImageCache(path)
    identity_N, row_N = np.array(database["identity"].to_pylist()), np.arange(60)
    pool = make_pool(config.data, identity_N, row_N, 60)
    source = make_source(
        config,
        pool,
        image_cache=path,
        variants=build_variants(tmp_path, cache, pool, config, map_chunks=ray_map),
        code_N=np.unique(identity_N, return_inverse=True)[1].astype(np.int64),
        sides_N6=np.eye(60, 6, dtype=np.float32),
    )
    assert bool(variants) == bool(source.variants)
    plan = make_plan(config, pool, world_size=2)
    for rank in (0, 1):
        plain = list(local_batches(plan, source, rank=rank))
        with hold_cpus(3.5):  # of 4: nothing may ask for more than the half CPU that the stream is allowed
            streamed = list(stream_batches(plan, source, rank=rank, resources=HALF_A_CPU))
        assert len(plain) == len(streamed) == len(plan) // 2
        for one, other in zip(plain, streamed, strict=True):
            assert all(np.array_equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))
            assert other.pixels_BHWC.flags.writeable


def test_a_stream_gives_the_same_batches_over_a_killed_process_and_images_that_cannot_be_augmented(
    local_ray, cached, tmp_path, monkeypatch
):
    path, database = cached
    config = override(tiny(), {"optim.batch_size": 8, "optim.epochs": 4, "data.oversample_to": 4, "seed": 3})
    identity_N = np.array(database["identity"].to_pylist())
    pool = make_pool(config.data, identity_N, np.arange(60), 60)
    source = make_source(
        config,
        pool,
        image_cache=path,
        variants=None,
        code_N=np.unique(identity_N, return_inverse=True)[1].astype(np.int64),
        sides_N6=np.eye(60, 6, dtype=np.float32),
    )
    plan = make_plan(config, pool, world_size=1).slice(3)  # taken up again in the middle of an epoch
    odd, killed = hashlib.sha256(ImageCache(path).view(7)).hexdigest(), tmp_path / "killed"
    monkeypatch.setattr(stream_module, "make_batch", functools.partial(_make_batch_of_odd, odd=odd, killed=str(killed)))
    streamed = list(stream_batches(plan, source, rank=0, resources=HALF_A_CPU))
    assert killed.exists()
    _refuse(odd, monkeypatch)
    plain = list(local_batches(plan, source, num_threads=3))
    assert any("row 7: ValueError: odd" in batch.failures for batch in plain)
    for one, other in zip(plain, streamed, strict=True):
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def _make_batch_of_odd(columns, *, odd, killed, **given):
    """`make_batch` in a process that is killed once, and in which one image cannot be augmented."""
    if columns["step"][0] == 2 and not Path(killed).exists():
        Path(killed).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.MonkeyPatch.context() as patch:
        _refuse(odd, patch)
        return make_batch(columns, **given)


def _refuse(odd, patch):
    inner = Augmenter._one

    def refuse(self, image_HWC, seed):
        if hashlib.sha256(image_HWC).hexdigest() == odd:
            raise ValueError("odd")
        return inner(self, image_HWC, seed)

    patch.setattr(Augmenter, "_one", refuse)


def test_a_stream_that_is_left_early_goes_on_nowhere(local_ray, cached, tmp_path):
    path, database = cached
    config = override(tiny(), {"optim.batch_size": 8, "optim.epochs": 50})
    identity_N = np.array(database["identity"].to_pylist())
    pool = make_pool(config.data, identity_N, np.arange(60), 60)
    codes = np.unique(identity_N, return_inverse=True)[1].astype(np.int64)
    source = make_source(
        config, pool, image_cache=path, variants=None, code_N=codes, sides_N6=np.eye(60, 6, dtype=np.float32)
    )
    stream = stream_batches(make_plan(config, pool, world_size=1), source, rank=0, resources=HALF_A_CPU)
    next(stream)
    assert _executions()
    stream.close()
    deadline = time.monotonic() + 30
    while _executions() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _executions()


def _executions():
    return [thread for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]
