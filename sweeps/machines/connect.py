"""Joining a Ray cluster, or starting a local Ray that can hold the sweep.

flags → `Resources`, with Ray initialised.
"""

import argparse
import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
import torch

from reid_core import command
from reid_core.errors import UserError
from sweeps.machines.resources import Resources
from sweeps.results.storage import show_uri

logger = logging.getLogger(__name__)
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a trial ends seconds earlier
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # else the dashboard's Train tab is empty
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal keeps what they would write
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables; sweeps/trials/progress.py says the same in less
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # an autoscaling cluster needs minutes for a node
}


def add_resource_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that runs trials on Ray: what they run on, and whether they are run at all."""
    parser.add_argument("--concurrent", type=int, default=1, help="trials at a time (default 1)")
    parser.add_argument("--workers", type=int, default=2, help="Ray Train workers per trial (default 2)")
    parser.add_argument("--gpus-per-worker", type=float, help="default: 1 where Ray finds GPUs, else 0")
    parser.add_argument("--data-cpus", type=float, help="CPUs per worker for augmentation (default 1; 4 with GPUs)")
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
    parser.add_argument("--plan", action="store_true", help="print what would be done and whether it fits; run nothing")


def on_cluster() -> bool:
    """Whether this runs as a Ray job or was pointed at a cluster."""
    return "RAY_ADDRESS" in os.environ or "RAY_JOB_ID" in os.environ


def make_resources(options: argparse.Namespace, *, num_gpus: float) -> Resources:
    """Resources from the flags, with defaults that depend on whether there are GPUs."""
    gpus = options.gpus_per_worker if options.gpus_per_worker is not None else float(num_gpus > 0)
    data_cpus = options.data_cpus if options.data_cpus is not None else (4.0 if gpus else 1.0)
    for flag, value, least in (
        ("--concurrent", options.concurrent, 1),
        ("--workers", options.workers, 1),
        ("--gpus-per-worker", gpus, 0),
        ("--data-cpus", data_cpus, 0.1),
    ):
        if value < least:
            raise UserError(f"{flag} {value}: must be at least {least}")
    return Resources(
        concurrent=options.concurrent,
        workers=options.workers,
        gpus_per_worker=gpus,
        data_cpus_per_worker=data_cpus,
    )


def start_ray(options: argparse.Namespace) -> Resources:
    """Join the cluster that this runs on, or start a local Ray with as many logical CPUs as the sweep needs.

    Raises:
        UserError: If the cluster cannot hold the sweep, or its nodes would not see the same folder.
    """
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # It looks for the files of the loggers that are off.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    if on_cluster():
        ray.init(runtime_env={"env_vars": ENVIRONMENT}, log_to_driver=False)
        check_shared(options, num_nodes=sum(node["Alive"] for node in ray.nodes()))
    else:
        resources = make_resources(options, num_gpus=torch.cuda.device_count())
        logger.info("starting a local Ray with %d logical CPUs: %s", resources.logical_cpus(), resources.describe())
        start_local_ray(resources.logical_cpus())
    there = ray.cluster_resources()
    resources = make_resources(options, num_gpus=there.get("GPU", 0))
    shortage = resources.shortage(there)
    if shortage:
        ray.shutdown()
        raise UserError(shortage)
    return resources


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

    What an error has left half read, a data set say, is closed before: later it would start another Ray to be closed.
    """
    try:
        yield
    except BaseException as error:
        cause: BaseException | None = error
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__cause__ or cause.__context__
        raise
    finally:
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


def find_shortage(options: argparse.Namespace) -> str | None:
    """Print what a sweep would need, and return why the cluster cannot hold it, if so; nothing is left running."""
    if on_cluster():
        ray.init(log_to_driver=False)
        there = ray.cluster_resources()
        ray.shutdown()
        resources = make_resources(options, num_gpus=there.get("GPU", 0))
        print(f"{resources.describe()}: the cluster has {there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs")
    else:
        resources = make_resources(options, num_gpus=torch.cuda.device_count())
        there = {"CPU": resources.logical_cpus(), "GPU": torch.cuda.device_count()}
        print(f"{resources.describe()}: a local Ray is started with {there['CPU']:g} logical CPUs")
    return resources.shortage(there)
