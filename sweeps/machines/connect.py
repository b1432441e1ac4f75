"""Joining a Ray cluster, or starting a local Ray that can hold the sweep.

flags → `Machines`, checked → Ray initialised.
"""

import argparse
import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import torch
from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION
from ray._private.utils import get_system_memory

from reid_core import command
from reid_core.data.chunks import count_cpus
from reid_core.errors import UserError
from sweeps.machines.flags import make_resources
from sweeps.machines.resources import Node, Resources, total_of
from sweeps.results.storage import show_uri

# Of Ray, on a machine of its own
LOCAL_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes this machine away; else a process more for each slot
}
# Loggers of Ray that say what nobody can act on: tokens are used, a step of its loop was slow, there are no files of
# loggers that are off
NEEDLESS = (
    "ray._private.authentication.authentication_token_setup",
    "ray.tune.utils.util",
    "ray.tune.analysis.experiment_analysis",
)
WARNED_AT = 4  # Ray warns of as many times more processes than it expects to start at a time
logger = logging.getLogger(__name__)
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # workers that were lost are replaced sooner
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # else the dashboard's Train tab is empty
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal keeps what they would write
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables; sweeps/trials/progress.py says the same in less
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "604800",  # how long workers may find no place, `waiting.Watch` decides
}


def on_cluster() -> bool:
    """Whether this runs as a Ray job or was pointed at a cluster."""
    return "RAY_ADDRESS" in os.environ or "RAY_JOB_ID" in os.environ


@dataclass(frozen=True)
class Machines:
    """What a sweep runs on, before any work: checked by `find_machines`."""

    resources: Resources  # that the flags ask for
    nodes: tuple[Node, ...]  # what each node of the cluster has, or the local Ray that would be started

    def describe(self) -> str:
        """One line for people."""
        there = total_of(self.nodes)
        if on_cluster():
            cluster = f"the cluster has {there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs"
        else:
            cluster = f"a local Ray is started with {there['CPU']:g} logical CPUs"
        return f"{self.resources.describe()}: {cluster}"


def find_machines(options: argparse.Namespace) -> Machines:
    """Join the cluster that this runs on, or foresee the local Ray that a sweep would start.

    Raises:
        UserError: If there is no such cluster, it cannot hold the sweep, or its nodes would not see the same folder.
    """
    if on_cluster():
        join_cluster()
        nodes = tuple(node["Resources"] for node in ray.nodes() if node["Alive"])
        check_shared(options, num_nodes=len(nodes))
        resources = make_resources(options, num_gpus=total_of(nodes).get("GPU", 0))
    else:
        resources = fit_data_cpus(make_resources(options, num_gpus=torch.cuda.device_count()), options.data_cpus)
        resources = replace(resources, gpu_bytes_per_worker=_local_gpu_bytes(resources))
        nodes = (local_node(resources),)
    shortage = resources.shortage(nodes)
    if shortage:
        raise UserError(shortage)
    return Machines(resources, nodes)


def _local_gpu_bytes(resources: Resources) -> int | None:
    """Memory of the smallest GPU of this machine, or a worker's part of it; None where no trial uses one."""
    if not resources.gpus_per_worker or not torch.cuda.is_available():
        return None
    whole = min(torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count()))
    return int(whole * min(1.0, resources.gpus_per_worker))


def fit_data_cpus(resources: Resources, asked: float | None) -> Resources:
    """Limit the CPUs for data to those of this machine, whose logical ones are as many as a sweep asks for.

    Args:
        resources: From `make_resources`.
        asked: With the flag; None: what it is by default may be too much for this machine.

    Raises:
        UserError: If more were asked for.
    """
    num_cpus = count_cpus()
    if asked is not None and asked > num_cpus:
        raise UserError(
            f"--data-cpus {asked:g}: this machine has {num_cpus} CPUs; more processes that make batches would only "
            f"wait for each other: give at most {num_cpus}"
        )
    return replace(resources, data_cpus_per_worker=min(resources.data_cpus_per_worker, num_cpus))


def local_node(resources: Resources) -> Node:
    """What `start_local_ray` will have: as many logical CPUs as are needed, and what this machine has of the rest."""
    memory, store = get_system_memory(), DEFAULT_OBJECT_STORE_MEMORY_PROPORTION
    sizes = {"memory": memory * (1 - store), "object_store_memory": memory * store}
    return {"CPU": resources.logical_cpus(), "GPU": torch.cuda.device_count(), **sizes}


def start_ray(machines: Machines) -> None:
    """Start the local Ray that was foreseen, unless a cluster was joined.

    Raises:
        UserError: If it does not start.
    """
    set_environment()
    if ray.is_initialized():
        return
    logical_cpus = machines.resources.logical_cpus()
    logger.info("starting a local Ray with %d logical CPUs: %s", logical_cpus, machines.resources.describe())
    start_local_ray(logical_cpus, num_processes=machines.resources.num_processes())


def set_environment() -> None:
    """Settings of Ray that are read when it starts."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    for name in NEEDLESS:
        logging.getLogger(name).setLevel(logging.ERROR)


def join_cluster() -> None:
    """Join the Ray that this is a job of, or that RAY_ADDRESS names.

    Raises:
        UserError: If it does not answer.
    """
    set_environment()
    if ray.is_initialized():
        return
    try:
        ray.init(runtime_env={"env_vars": ENVIRONMENT}, log_to_driver=False)
    except (ConnectionError, TimeoutError) as error:
        address = os.environ.get("RAY_ADDRESS", "auto")
        raise UserError(f"RAY_ADDRESS={address}: no Ray answers there ({error})") from error


def start_local_ray(logical_cpus: int, *, num_processes: int = 0) -> None:
    """Start a Ray of this machine alone.

    Args:
        logical_cpus: That it is given.
        num_processes: That it is expected to start.

    Raises:
        UserError: If it does not start.
    """
    for key, value in LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    at_a_time = max(os.cpu_count() or 1, num_processes // WARNED_AT + 1)
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(at_a_time))
    for attempts_left in (1, 0):
        try:
            # Without its dashboard Ray cannot free a stopped trial's resources, and the sweep would hang.
            ray.init(
                num_cpus=logical_cpus,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
            return
        except Exception as error:  # Ray raises a bare one if its servers take more than 30 s: a busy machine
            ray.shutdown()
            if not attempts_left:
                raise UserError(f"a local Ray does not start: {error}; is this machine very busy?") from error
            logger.warning("a local Ray did not start (%s); trying once more", error)


@contextmanager
def ray_at_work() -> Iterator[None]:
    """Leave Ray, or end the local one, however this ends.

    One that was there before stays. What an error has left half read, a data set say, is closed before: later it would
    start another Ray to be closed.
    """
    was_there = ray.is_initialized()
    try:
        yield
    except BaseException as error:
        cause: BaseException | None = error
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__cause__ or cause.__context__
        raise
    finally:
        if not was_there:
            ray.shutdown()


def check_shared(options: argparse.Namespace, *, num_nodes: int) -> None:
    """Find out whether the nodes of a cluster can see what they must.

    Raises:
        UserError: If they would work in a folder that each of them has for itself.
    """
    if command.is_uri(options.out):
        if options.work is None and num_nodes > 1:
            raise UserError(
                f"--out {show_uri(options.out)}: on a cluster of {num_nodes} nodes, --work must name a folder that all "
                "of them see: it holds the image cache"
            )
    elif not Path(options.out).is_absolute():
        logger.warning("--out %s is relative: it lies in the job's own folder, which Ray deletes", options.out)
