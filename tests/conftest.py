"""What several test files need, each made once: a drawn data set, an experiment on it, a local Ray."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of several processes would wait for each other

from pathlib import Path

import pytest
from s3_server import moto, storage, uri  # noqa: F401  # fixtures
from tiny_experiment import Experiment, run_experiment

from reid_core.data.synthetic import write_synthetic
from sweeps.machines.connect import ENVIRONMENT


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A third of the embedded data set: folder with metadata.csv. No test writes into it."""
    return write_synthetic(tmp_path_factory.mktemp("data") / "synthetic", scale=0.35)


@pytest.fixture(scope="session")
def experiment(small_data, tmp_path_factory) -> Experiment:
    """One epoch with everything that it exports. No test writes into it."""
    return run_experiment(small_data, tmp_path_factory.mktemp("experiment") / "out")


@pytest.fixture(scope="session")
def local_ray():
    """A local Ray with its dashboard: without it a stopped trial's resources are never freed."""
    import ray

    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        ray.init(
            num_cpus=4,
            num_gpus=1,  # a logical one, for what asks for GPUs
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": f"{here}:{here.parent}"}},  # trials import functions of the tests
        )
        yield ray
        ray.shutdown()
