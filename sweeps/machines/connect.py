"""Joining a Ray cluster, or starting a local Ray that can hold the sweep.

flags → `Machines`, checked → Ray initialised.
"""

import argparse
import logging
import math
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
from reid_core.errors import UserError
from sweeps.machines.limits import parse_time
from sweeps.machines.resources import PATIENCE_S, Node, Resources, total_of
from sweeps.results.storage import show_uri

logger = logging.getLogger(__name__)
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a trial ends seconds earlier
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # else the dashboard's Train tab is empty
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal keeps what they would write
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables; sweeps/trials/progress.py says the same in less
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "604800",  # how long workers may find no place, `waiting.Watch` decides
}


def add_resource_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that runs trials on Ray: what they run on, and whether they are run at all."""
    parser.add_argument("--concurrent", type=int, default=1, help="trials at a time (default 1)")
    parser.add_argument("--workers", type=int, default=2, help="Ray Train workers per trial (default 2)")
    parser.add_argument("--gpus-per-worker", type=float, help="default: 1 where Ray finds GPUs, else 0")
    parser.add_argument("--data-cpus", type=float, help="CPUs per worker for augmentation (default 1; 4 with GPUs)")
    parser.add_argument(
        "--give-up-after",
        default=f"{PATIENCE_S / 3600:g}h",
        metavar="TIME",
        help="end the sweep with an error once CPUs or GPUs that it needs were not to be had for this time, as 30m or "
        "12h, and nothing moved (default %(default)s; 0: wait for ever); what is waited for is logged after a minute",
    )
    parser.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto: continue what OUT holds; never: refuse an OUT that holds a sweep (default auto)",
    )
    parser.add_argument(
        "--share-store",
        type=Path,
        metavar="FOLDER",
        help="keep the match scores of pairs here, for this sweep and the ones after it (default OUT/store)",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="print what would be done, make every check that the run makes, and run nothing",
    )


def on_cluster() -> bool:
    """Whether this runs as a Ray job or was pointed at a cluster."""
    return "RAY_ADDRESS" in os.environ or "RAY_JOB_ID" in os.environ


def make_resources(options: argparse.Namespace, *, num_gpus: float) -> Resources:
    """Resources from the flags, with defaults that depend on whether there are GPUs.

    Raises:
        UserError: If a number is too small, or GPUs cannot be divided like this.
    """
    gpus = options.gpus_per_worker if options.gpus_per_worker is not None else float(num_gpus > 0)
    patience = options.give_up_after.strip()
    data_cpus = options.data_cpus if options.data_cpus is not None else (4.0 if gpus else 1.0)
    for flag, value, least in (
        ("--concurrent", options.concurrent, 1),
        ("--workers", options.workers, 1),
        ("--gpus-per-worker", gpus, 0),
        ("--data-cpus", data_cpus, 0.1),
    ):
        if not least <= value < math.inf:
            raise UserError(f"{flag} {value}: must be at least {least}, and finite")
    if gpus % 1 and gpus > 1:
        raise UserError(f"--gpus-per-worker {gpus:g}: above 1 only whole GPUs can be had")
    if gpus % 1 and options.workers > 1:
        raise UserError("--gpus-per-worker below 1 needs --workers 1: two workers cannot share a GPU (NCCL)")
    return Resources(
        concurrent=options.concurrent,
        workers=options.workers,
        gpus_per_worker=gpus,
        data_cpus_per_worker=data_cpus,
        patience_s=parse_time(patience, flag="--give-up-after") if patience != "0" else None,
    )


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
        resources = make_resources(options, num_gpus=torch.cuda.device_count())
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
    start_local_ray(logical_cpus)


def set_environment() -> None:
    """Settings of Ray that are read when it starts."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # It looks for the files of the loggers that are off.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)


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


def start_local_ray(logical_cpus: int) -> None:
    """Start a Ray of this machine alone.

    Raises:
        UserError: If it does not start.
    """
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
