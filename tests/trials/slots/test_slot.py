"""A slot whose processes are killed: it comes back with the trial at hand, and gives everything back in the end."""

import threading
import time

import psutil
import pytest
import ray
from ray.util.state import list_tasks

from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.experiment.prepare import prepare
from sweeps.machines.resources import Resources
from sweeps.results.journal import Journal
from sweeps.search.suggestion import Suggestion
from sweeps.trials.context import SweepContext
from sweeps.trials.tuning import run_fixed

EPOCHS = 12
PROCESSES = {"worker": "ray::RayTrainWorker", "controller": "ray::TrainController", "desk": "ray::Slot"}


def processes(title):
    """Of this test's Ray, by the beginning of their title."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
        except psutil.Error:
            continue
    return found


def tasks_at_work():
    """Names of the actors' tasks that run, as Ray's dashboard shows them."""
    here = ray.get_runtime_context().gcs_address  # another Ray may run on this machine
    running = list_tasks(address=here, filters=[("type", "=", "ACTOR_TASK"), ("state", "=", "RUNNING")])
    return {task.name for task in running}


def kill_in_the_middle(journal, title, killed, shown):
    """Kill one process with such a title as soon as a trial has a report; what the dashboard shows after that."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if any(record.reports and not record.has_ended for record in journal.read()):
            for process in processes(title):
                process.kill()
                killed.append(process.pid)
                shown.update(tasks_at_work())
                return
        time.sleep(0.01)


def wait_until(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)
    return condition()


@pytest.mark.parametrize(
    "kind", ["worker", *(pytest.param(kind, marks=pytest.mark.realdata) for kind in ("controller", "desk"))]
)  # the last two with `make test-real`: a minute each
def test_a_killed_process_costs_no_trial_an_epoch(local_ray, small_data, tmp_path, kind):
    config = override(tiny(), {"optim.epochs": EPOCHS, "match.matcher": "none"})
    prepare(small_data, tmp_path / "cache", config)
    context = SweepContext(config, str(tmp_path), str(tmp_path / "cache"), Resources(workers=1))
    journal, killed, shown = Journal(tmp_path / "trials"), [], set()
    before = ray.available_resources().get("CPU")
    thread = threading.Thread(target=kill_in_the_middle, args=(journal, PROCESSES[kind], killed, shown))
    thread.start()
    rows = [Suggestion(name=name, parameters={"optim.epochs": n}) for name, n in (("killed", EPOCHS), ("next", 1))]
    records = run_fixed(rows, context)
    thread.join()
    assert len(killed) == 1
    assert kind != "worker" or any(name.startswith("killed: report ") for name in shown), shown
    assert [record.status for record in records.values()] == ["completed", "completed"]
    assert [report["epoch"] for report in records["killed"].reports] == list(range(1, EPOCHS + 1))
    assert [record.retries for record in records.values()] == [0 if kind == "desk" else 1, 0]
    assert wait_until(lambda: ray.available_resources().get("CPU") == before)
    assert wait_until(lambda: not any(processes(title) for title in PROCESSES.values()))
    groups = ray.util.placement_group_table().values()
    assert {group["state"] for group in groups} <= {"REMOVED"}
