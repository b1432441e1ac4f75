"""A look at the cluster: what this sweep asks for and has not got, whether it computes, and what is free.

Ray's State API → `Seen`. Only what belongs to this job counts: on a shared cluster others wait and compute as well.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import ray
from ray.util.state import list_actors, list_placement_groups, list_tasks, list_workers
from ray.util.state.common import ActorState, TaskState, WorkerState

from sweeps.machines.resources import DRIVER_CPUS, DRIVER_SLOT

SHOWN = ("CPU", "GPU", DRIVER_SLOT, "memory")  # of the resources that are asked for
WAITING = {"PENDING", "RESCHEDULING", "PENDING_CREATION", "RESTARTING", "PENDING_NODE_ASSIGNMENT"}
PLACED = {"CREATED", "ALIVE", "RUNNING", "RUNNING_IN_RAY_GET", "RUNNING_IN_RAY_WAIT"}
MOST = 10_000  # of each kind that are listed
ANSWER_S = 10


class Seen(NamedTuple):
    """A look at the cluster."""

    asked: tuple[str, ...]  # what tasks, actors and groups of workers of this sweep ask for and have not got
    is_at_work: bool  # whether something of this sweep that computes has its place
    free: str  # in the whole cluster


class Request(NamedTuple):
    """What a task, an actor or a placement group asks for."""

    state: str  # as Ray calls it, one of `WAITING`, `PLACED` or another
    bundles: tuple[Mapping[str, float], ...]  # each of one node

    @property
    def is_asking(self) -> bool:
        """Whether it waits for more than its process to start."""
        return self.state in WAITING and any(bundle.get(name, 0) > 0 for bundle in self.bundles for name in SHOWN)

    @property
    def computes(self) -> bool:
        """Whether it asks for more than a trial's driver, which only waits."""
        return any(bundle.get("GPU", 0) > 0 or bundle.get("CPU", 0) > DRIVER_CPUS for bundle in self.bundles)

    def describe(self) -> str:
        """In words."""
        return " + ".join(map(format_amounts, self.bundles))


def look_at_ray() -> Seen:
    """What this job waits for, whether it is at work, and what is free."""
    free = format_amounts({"CPU": 0.0, "GPU": 0.0} | ray.available_resources())
    here = ray.get_runtime_context()
    return summarise(list_requests(here.get_job_id(), here.gcs_address), free)


def summarise(requests: Iterable[Request], free: str) -> Seen:
    """Requests in few words.

    Example:
        >>> summarise([Request("PENDING", ({"CPU": 1},) * 2), Request("CREATED", ({"CPU": 0.01},))], "1 CPU")
        Seen(asked=('1 × 1 CPU + 1 CPU',), is_at_work=False, free='1 CPU')
    """
    requests = list(requests)
    asked = Counter(request.describe() for request in requests if request.is_asking)
    is_at_work = any(request.state in PLACED and request.computes for request in requests)
    return Seen(tuple(sorted(f"{count} × {words}" for words, count in asked.items())), is_at_work, free)


def list_requests(job: str, address: str) -> list[Request]:
    """What the tasks, actors and placement groups of a job ask for; what lies within a group is the group's.

    Args:
        job: Its number, as Ray writes it.
        address: Of the cluster: another may run on the same machine.
    """
    how: dict[str, Any] = {"detail": True, "limit": MOST, "timeout": ANSWER_S, "raise_on_missing_output": False}
    how["address"] = address
    unfinished = [("state", "!=", "FINISHED"), ("state", "!=", "FAILED")]
    groups = list_placement_groups(filters=[("creator_job_id", "=", job)], **how)
    actors = list_actors(filters=[("job_id", "=", job), ("state", "!=", "DEAD")], **how)
    tasks = list_tasks(filters=[("job_id", "=", job), ("type", "=", "NORMAL_TASK"), *unfinished], **how)
    workers = list_workers(filters=[("is_alive", "=", True)], **how)
    alone = [(task.state, task.required_resources or {}) for task in without_lost(tasks, workers)]
    alone += [(actor.state, _held_by(actor)) for actor in actors]
    return [
        *(Request(group.state, tuple(each["unit_resources"] for each in group.bundles or ())) for group in groups),
        *(Request(state, (amounts,)) for state, amounts in alone if not any("_group_" in name for name in amounts)),
    ]


def without_lost(tasks: Iterable[TaskState], workers: Iterable[WorkerState]) -> list[TaskState]:
    """The tasks that wait, and those whose process lives: Ray may for ever call one running whose process is dead.

    Args:
        tasks: Unfinished, as Ray has them.
        workers: Processes that live.
    """
    live = {(worker.node_id, worker.pid) for worker in workers}
    return [task for task in tasks if task.state not in PLACED or (task.node_id, task.worker_pid) in live]


def _held_by(actor: ActorState) -> dict[str, float]:
    """What an actor asks for; of one that lives without its CPU, which most need only to start."""
    amounts = actor.required_resources or {}
    return {name: amount for name, amount in amounts.items() if actor.state != "ALIVE" or name != "CPU"}


def format_amounts(amounts: Mapping[str, float]) -> str:
    """Resources in words.

    Example:
        >>> format_amounts({"GPU": 0.5, "CPU": 1.0, "node:127.0.0.1": 1.0})
        '1 CPU, 0.5 GPU'
    """
    shown = [f"{amounts[name]:g} {name}" for name in SHOWN if name in amounts and name != "memory"]
    shown += [f"{amounts[name] / 1e9:.1f} GB of memory" for name in SHOWN if name == "memory" and name in amounts]
    return ", ".join(shown) or "what no node has"
