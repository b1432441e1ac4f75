"""A worker that is lost in each phase of a trial: nobody sees it in what the trial gives."""

import psutil
import pytest
from traps import TRAPS, Trapped

from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.experiment.prepare import prepare
from reid_core.metrics.epoch_report import CLOCKED
from sweeps.search.suggestion import Suggestion
from sweeps.trials.context import SweepContext
from sweeps.trials.slots.pool import keep_slots
from sweeps.trials.tuning import run_fixed


def kill_waiting_workers():
    """Those of this test's Ray; their number, and only when they have gone."""
    workers = [each for each in psutil.Process().children(recursive=True) if is_worker(each)]
    for worker in workers:
        worker.kill()
    psutil.wait_procs(workers, timeout=30)
    return len(workers)


def is_worker(process):
    try:
        return " ".join(process.cmdline()).startswith("ray::RayTrainWorker")
    except psutil.Error:
        return False


def given(record):
    """All that a trial gave but times."""
    reports = [{key: value for key, value in report.items() if key not in CLOCKED} for report in record.reports]
    return record.status, reports, record.metrics, record.epoch_zero


@pytest.mark.slow  # minutes: after each of them the slot starts new workers
def test_a_trial_whose_worker_is_lost_in_any_phase_gives_what_it_gives_alone(local_ray, small_data, tmp_path):
    config = override(tiny(), {"optim.epochs": 3, "match.matcher": "none"})
    prepare(small_data, tmp_path / "cache", config)
    resources = Trapped(workers=1, folder=str(tmp_path))
    rows = [Suggestion(name=name, parameters={}) for name in ("alone", *TRAPS, "after-waiting")]
    with keep_slots(resources, tmp_path) as pool:
        context = SweepContext(config, str(tmp_path), str(tmp_path / "cache"), resources, pool=pool)
        run_fixed(rows[:-1], context)
        assert kill_waiting_workers() == 1
        records = run_fixed(rows, context)
    processes = {name: (tmp_path / name).read_text() for name in TRAPS}
    assert len(set(processes.values())) == len(TRAPS)  # none of them served another trial
    assert {name: record.retries for name, record in records.items()} == {
        **{"alone": 0, "after-waiting": 0},
        **dict.fromkeys(TRAPS, 1),
    }
    alone = given(records["alone"])
    assert alone[0] == "completed"
    assert {name: given(record) == alone for name, record in records.items()} == dict.fromkeys(records, True)
