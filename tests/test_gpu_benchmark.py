"""benchmarks/gpu.py: its arithmetic, a step on a CPU, and that it says so where there is no GPU."""

import time
from dataclasses import replace

import pytest
import torch

from benchmarks import gpu, gpu_training
from benchmarks.gpu_data import Photographs, make_batch
from benchmarks.gpu_rows import Machine, print_row, result_line, share_of_peak
from reid_core.model.reid_model import make_model
from reid_core.training.batches import local_batches

BATCH = 8


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(
        device="cpu",
        folder=tmp_path,
        backbone="swin_micro_patch4_window4_64",
        image_px=64,
        steps=1,
        rounds=1,
        ends=time.monotonic() + 3600,
        weights=None,
        peak=1e12,
    )


def test_without_a_gpu_it_says_so_and_measures_nothing(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 0
    assert capsys.readouterr().out == ("nothing is measured: there is no GPU (--device cpu tries the script itself)\n")


def test_an_unknown_part_is_refused(capsys):
    assert gpu.main(["--device", "cpu", "--only", "steps,stepz"]) == 2
    assert "stepz" in capsys.readouterr().err


def test_a_row_has_the_rate_and_the_time_of_a_batch(capsys):
    print_row("step", 2.0, 100, batch=25, memory_gb=1.5, share=0.25)
    cells = [cell.strip() for cell in capsys.readouterr().out.split("|")]
    assert cells == ["", "step", "25", "50.0 images", "500.0", "1.50 GB", "25.0%", ""]


def test_a_claim_is_judged_by_its_bar_if_it_has_one():
    assert result_line("c", 140.0, 100.0, bar=1.5) == "RESULT c value=140 peer=100 ratio=1.40 bar=1.5 short"
    assert result_line("c", 150.0, 100.0, bar=1.5) == "RESULT c value=150 peer=100 ratio=1.50 bar=1.5 ok"
    assert result_line("c", 50.0, 100.0) == "RESULT c value=50 peer=100 ratio=0.50 bar=none ok"


def test_the_share_of_a_peak_that_is_not_known_is_not_printed():
    assert share_of_peak(500e12, 2.0, 1000e12) == 0.25
    assert share_of_peak(500e12, 2.0, None) is None


def test_operations_are_counted_per_image_and_grow_with_what_is_trained(machine):
    def operations(stages: int, batch_size: int) -> float:
        config = gpu_training.configure(machine, stages, batch_size)
        return gpu_training.Training(machine, config, make_model(config)).count_operations()

    # Forward and backward of everything cost three times the forward; less where the first layers are frozen.
    forward = operations(0, BATCH)
    assert forward < operations(1, BATCH) < operations(2, 2 * BATCH) < 3 * forward


def test_no_row_begins_when_the_time_is_used_up(machine, capsys):
    config = gpu_training.configure(machine, 1, BATCH)
    late = replace(machine, ends=0.0)
    gpu_training.measure_steps(late, make_model(config), 1, (BATCH,))
    assert (
        f"not measured, the time is used up (--seconds): unfrozen stages: 1, batch {BATCH}" in capsys.readouterr().out
    )


def test_a_row_that_fails_costs_no_other(machine, caplog):
    done = []
    machine.attempt("too large", lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")))
    machine.attempt("the next", lambda: done.append(1))
    assert done
    assert "too large" in caplog.text


def test_a_batch_of_another_process_is_the_trial_s(machine, tmp_path):
    config = gpu_training.configure(machine, 1, BATCH)
    plan, source = Photographs(tmp_path, 16, 64).plan_and_source(config, num_steps=2)
    own = list(local_batches(plan, source))
    assert len(own) >= 2
    for row, batch in zip(plan.to_pylist(), own, strict=True):
        other = make_batch(row, source)
        assert other.pixels_BHWC.tobytes() == batch.pixels_BHWC.tobytes()
        assert other.identity_B.tolist() == batch.identity_B.tolist()
