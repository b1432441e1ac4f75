"""A trial after others in the same process gives, bit for bit, what it gives alone; nothing of the others is left."""

import gc
import mmap
import threading
import weakref
from contextlib import suppress

import numpy as np
import pytest
import torch
from pyarrow.fs import LocalFileSystem

from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.experiment.prepare import prepare
from reid_core.metrics.epoch_report import CLOCKED
from reid_core.model.place import local_place
from reid_core.training.batches import local_batches
from reid_core.training.trainer import Trainer
from sweeps.machines.resources import Resources
from sweeps.search.suggestion import FAILED
from sweeps.trials import worker
from sweeps.trials.settings import WorkerSettings
from sweeps.trials.slots.alone import alone, measure_memory, settle
from sweeps.trials.worker import Line, run_alone

SHORT = {"optim.epochs": 1, "optim.batch_size": 32, "match.matcher": "none", "model.drop_path": 0.2}
ENDS = {  # what ends a trial → reports that it has made by then
    "its end": 2,
    "the scheduler": 1,
    "the loss is nan": 1,
    "an error in the middle of an epoch": 0,
    "its end, with other settings of torch": 2,
}
SWIN = {"model.backbone": "swin_micro_patch4_window4_64", "model.weights": "random"}
OTHERS = [  # trials that come before
    (SWIN | {"loss.name": "triplet", "data.images_per_identity": 4}, "its end"),
    ({"loss.name": "cross_entropy", "seed": 7}, "the scheduler"),
    ({"data.variants": 2}, "its end"),
    ({}, "the loss is nan"),
    ({}, "its end, with other settings of torch"),
    ({"model.keep_activations": True, "model.unfrozen_stages": 1, "data.variants": 2}, "its end"),
    ({}, "an error in the middle of an epoch"),
]
COMPARED_AFTER = ("the loss is nan", "an error in the middle of an epoch")  # and whatever came before these


class Heard(Line):
    """A line that keeps what is reported."""

    def __init__(self, config, *, is_wanted=True):
        super().__init__(None, 1, local_place(config))
        object.__setattr__(self, "reports", [])
        object.__setattr__(self, "is_wanted", is_wanted)

    def send(self, report):
        self.reports.append({key: value for key, value in report.items() if key not in CLOCKED})
        return self.is_wanted

    def send_last(self, report):
        del report["history"], report["checkpoint_path"]
        self.reports.append(report)

    def give_up(self, error, status):
        self.reports.append({FAILED: str(error), "status": status})
        return True


@pytest.fixture(scope="module")
def run(small_data, tmp_path_factory):
    """Runs a trial as a worker of a slot does, with batches that this process makes; its reports."""
    folder, base = tmp_path_factory.mktemp("alone"), override(tiny(), SHORT)
    prepare(small_data, folder / "cache", base)
    numbers = iter(range(1000))

    def run(changes, *, is_wanted=True):
        config = override(base, changes)
        place = folder / f"trial-{next(numbers)}"
        place.mkdir()
        settings = WorkerSettings(
            config=config,
            name="trial",
            cache=str(folder / "cache"),
            filesystem=LocalFileSystem(),
            checkpoint_folder=str(place),
            folder=str(place),
            resources=Resources(workers=1),
        )
        line = Heard(config, is_wanted=is_wanted)
        run_alone(settings, line)
        return line.reports

    settle()  # as a worker does
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            worker, "stream_batches", lambda plan, source, *, rank, **options: local_batches(plan, source, rank=rank)
        )
        yield run
    gc.unfreeze()


def spoil(patch, end):
    """Let the next trial end in a certain way; its models, as weak references."""
    step, make_trainer, models = Trainer._train_step, worker.make_trainer, []

    def spoiled(self, batch):
        loss = step(self, batch)
        if end == "the loss is nan":
            return loss * torch.nan
        if end == "an error in the middle of an epoch":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if end == "its end, with other settings of torch":
            torch.use_deterministic_algorithms(True)
            torch.backends.cuda.matmul.fp32_precision = "tf32"
            torch.set_num_threads(2)
        return loss

    def noting(*arguments):
        trainer = make_trainer(*arguments)
        models.append(weakref.ref(trainer.model))
        return trainer

    patch.setattr(Trainer, "_train_step", spoiled)
    patch.setattr(worker, "make_trainer", noting)
    return models


def run_spoiled(run, changes, end, monkeypatch):
    """What a trial reports before it ends in a certain way; its models."""
    with monkeypatch.context() as patch:
        models = spoil(patch, end)
        try:
            return run(changes, is_wanted=end != "the scheduler"), models
        except torch.AcceleratorError:  # ends the process, but who knows
            return [], models
        finally:
            gc.collect()  # the error has held its frames until now


def test_a_trial_after_others_equals_the_trial_alone_and_nothing_of_them_is_left(run, monkeypatch):
    alone, threads = run({}), set(threading.enumerate())
    for changes, end in OTHERS:
        reports, models = run_spoiled(run, changes, end, monkeypatch)
        assert len(reports) == ENDS[end]
        assert [model() for model in models] == [None]
        assert set(threading.enumerate()) <= threads
        if end in COMPARED_AFTER:
            assert run({}) == alone, end


def test_settings_of_torch_are_what_they_were():
    def settings():
        return (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.backends.cudnn.benchmark,
        )

    before = settings()
    with suppress(KeyError), alone(3, "cuda"):
        torch.set_num_threads(2 if before[0] == 1 else 1)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.backends.cudnn.benchmark = not before[3]
        assert all(now != was for now, was in zip(settings(), before, strict=True))
        raise KeyError
    assert settings() == before
    assert torch.get_float32_matmul_precision() == "highest"  # torch refuses to say after old and new names are mixed


def test_pages_of_a_mapped_file_are_not_what_a_process_holds(tmp_path):
    size, file = 64 * 2**20, tmp_path / "cache"
    file.write_bytes(bytes(size))
    before = measure_memory()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert int(np.frombuffer(mapped, np.uint8)[:: mmap.PAGESIZE].sum()) == 0  # touches every page
        assert measure_memory() - before < size / 2
    held = np.ones(size, np.uint8)
    assert measure_memory() - before > size / 2
    assert len(held) == size


def test_what_is_there_in_the_beginning_is_no_longer_searched():
    before = gc.get_freeze_count()
    try:
        settle()
        assert gc.get_freeze_count() > before
        assert len(gc.get_objects()) < gc.get_freeze_count()
    finally:
        gc.unfreeze()
