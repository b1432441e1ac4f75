"""What a sweep needs and whether the cluster can hold it. No Ray.

flags → `Resources` → CPUs and GPUs needed → a reason why it cannot start, or none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

DRIVER_CPUS = 0.01  # a trial's driver only waits; 0 would let Ray start it anywhere, at any number
DRIVER_SLOT = "TRAIN_DRIVER"  # custom resource of a head node that has room for trial drivers and no CPUs to give


def driver_resources(cluster: Mapping[str, float]) -> dict[str, float]:
    """What one trial's driver asks for: a slot on the head where there are such, so that no spot machine holds it."""
    return {"CPU": 0, DRIVER_SLOT: 1} if DRIVER_SLOT in cluster else {"CPU": DRIVER_CPUS}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Logical resources of the trials that run at the same time."""

    concurrent: int = 1  # trials
    workers: int = 2  # Ray Train workers per trial, one CPU each
    gpus_per_worker: float = 0.0
    data_cpus_per_worker: float = 1.0  # for Ray Data's augmentation

    @property
    def cpus_per_trial(self) -> float:
        """Logical CPUs that one trial can use at a time."""
        return DRIVER_CPUS + self.workers * (1 + self.data_cpus_per_worker)

    @property
    def cpus(self) -> float:
        """Logical CPUs of all concurrent trials."""
        return self.concurrent * self.cpus_per_trial

    @property
    def gpus(self) -> float:
        """GPUs of all concurrent trials."""
        return self.concurrent * self.workers * self.gpus_per_worker

    @property
    def device(self) -> str:
        """Where trials compute, as torch names it."""
        return "cuda" if self.gpus_per_worker else "cpu"

    def logical_cpus(self) -> int:
        """Whole logical CPUs to give a local Ray, so that the sweep fits on any machine."""
        return math.ceil(self.cpus)

    def shortage(self, cluster: Mapping[str, float]) -> str | None:
        """Why these resources cannot be had from a cluster (`ray.cluster_resources()`), or None if they can.

        Without this check trials would hold every CPU and wait for ever for the data that needs one.
        """
        if self.gpus_per_worker % 1 and self.workers > 1:
            return "--gpus-per-worker below 1 needs --workers 1: two workers cannot share a GPU (NCCL)"
        drivers = self.concurrent if DRIVER_SLOT in cluster else 0
        for name, needed in (("CPU", self.cpus), ("GPU", self.gpus), (DRIVER_SLOT, drivers)):
            there = cluster.get(name, 0.0)
            if needed > there + 1e-6:
                return (
                    f"the sweep needs {needed:g} {name}s ({self.describe()}), the cluster has {there:g}; "
                    "lower --concurrent, --workers or --data-cpus, or add nodes"
                )
        return None

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{self.concurrent} trials at a time × {self.workers} workers × "
            f"(1 CPU + {self.data_cpus_per_worker:g} for data + {self.gpus_per_worker:g} GPU)"
        )
