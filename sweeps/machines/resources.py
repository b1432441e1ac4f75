"""What a sweep needs and whether the cluster can hold it. No Ray.

flags → `Resources` → CPUs and GPUs needed → a reason why it cannot start, or none.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DRIVER_CPUS = 0.01  # a trial's driver only waits; 0 would let Ray start it anywhere, at any number
PATIENCE_S = 3600.0  # an autoscaling cluster may need long for a node
EXACT = 1e-6  # sums of decimal fractions are not exact
DRIVER_SLOT = "TRAIN_DRIVER"  # custom resource of a head node that has room for trial drivers and no CPUs to give

Node = Mapping[str, float]  # what one node has, by the names of `ray.nodes()`


def total_of(nodes: Sequence[Node]) -> dict[str, float]:
    """What a cluster has.

    Example:
        >>> total_of([{"CPU": 4, "GPU": 1}, {"CPU": 8}])
        {'CPU': 12, 'GPU': 1}
    """
    total: Counter[str] = Counter()
    for node in nodes:
        total.update(node)  # type: ignore[arg-type]
    return dict(total)


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
    gpu_bytes_per_worker: int | None = None  # memory of a worker's GPU, or its part; None: each worker looks itself
    patience_s: float | None = PATIENCE_S  # how long what is needed may not be to be had; None: for ever

    @property
    def cpus_per_trial(self) -> float:
        """Logical CPUs that one trial can use at a time."""
        return DRIVER_CPUS + self.workers * (1 + self.data_cpus_per_worker)

    @property
    def cpus(self) -> float:
        """Logical CPUs of all concurrent trials, their drivers included."""
        return self.concurrent * self.cpus_per_trial

    @property
    def gpus(self) -> float:
        """GPUs of all concurrent trials."""
        return self.concurrent * self.workers * self.gpus_per_worker

    @property
    def cpus_per_data_task(self) -> float:
        """Logical CPUs of one task of Ray Data that makes batches."""
        return min(1.0, self.data_cpus_per_worker)

    @property
    def device(self) -> str:
        """Where trials compute, as torch names it."""
        return "cuda" if self.gpus_per_worker else "cpu"

    def num_processes(self) -> int:
        """How many processes Ray starts for all of it, about: for each slot, and of its own."""
        of_slot = 4 + self.workers * (1 + math.ceil(self.data_cpus_per_worker))
        return self.concurrent * of_slot + 6

    def logical_cpus(self) -> int:
        """Whole logical CPUs to give a local Ray, so that the sweep fits on any machine."""
        return math.ceil(self.cpus)

    def shortage(self, nodes: Sequence[Node]) -> str | None:
        """Why these resources cannot be had from a cluster, or None if they can.

        Without this check trials would hold every CPU and wait for ever for the data that needs one. Every task that
        Ray Data or a stage of the sweep starts fits where a worker fits, because it starts when no trial runs, or is
        one of the data tasks that are counted here; Ray's own helpers ask for no CPU.

        Args:
            nodes: What each node has.
        """
        cluster = total_of(nodes)
        driver = driver_resources(cluster)
        cpus = self.cpus - self.concurrent * (DRIVER_CPUS - driver["CPU"])
        slots = self.concurrent * driver.get(DRIVER_SLOT, 0)
        for name, needed in (("CPU", cpus), ("GPU", self.gpus), (DRIVER_SLOT, slots)):
            there = cluster.get(name, 0.0)
            if needed > there + EXACT:
                share = "--gpus-per-worker" if name == "GPU" else "--data-cpus"
                return (
                    f"the sweep needs {needed:g} {name}s ({self.describe()}), the cluster has {there:g}; "
                    f"lower --concurrent, --workers or {share}, or add nodes"
                )
        return self._unplaced_workers(nodes) or self._unplaced_data(nodes)

    def _unplaced_workers(self, nodes: Sequence[Node]) -> str | None:
        """Workers are not divided: each needs its CPU and its GPU on one node, and a part of a GPU on one device."""
        room, needed = sum(map(self._workers_on, nodes)), self.concurrent * self.workers
        if needed <= room:
            return None
        return (
            f"the sweep needs room for {needed} workers ({self.describe()}), the nodes of the cluster have it for "
            f"{room}: each takes 1 CPU and {self.gpus_per_worker:g} GPU of one node, and less than one GPU is of a "
            "single device; lower --concurrent, --workers or --gpus-per-worker, or add nodes"
        )

    def _unplaced_data(self, nodes: Sequence[Node]) -> str | None:
        """Somewhere a data task must find its CPUs beside the workers, wherever those are."""
        drivers = self.concurrent * driver_resources(total_of(nodes))["CPU"]
        num_workers, all_cpus = self.concurrent * self.workers, total_of(nodes).get("CPU", 0.0)
        largest = 0.0
        for node in nodes:
            elsewhere = sum(map(self._workers_on, nodes)) - self._workers_on(node)
            here = max(0, num_workers - elsewhere)
            left_elsewhere = all_cpus - node.get("CPU", 0.0) - (num_workers - here)
            largest = max(largest, node.get("CPU", 0.0) - here - max(0.0, drivers - left_elsewhere))
        if self.cpus_per_data_task <= largest + EXACT:
            return None
        return (
            f"the sweep needs {self.cpus_per_data_task:g} CPU of one node for a data task ({self.describe()}); beside "
            f"the workers no node has more than {largest:g}; lower --data-cpus, --concurrent or --workers, or add nodes"
        )

    def _workers_on(self, node: Node) -> int:
        """How many workers a node has room for."""
        by_cpu = math.floor(node.get("CPU", 0.0) + EXACT)
        if not self.gpus_per_worker:
            return by_cpu
        devices = math.floor(node.get("GPU", 0.0) + EXACT)
        if self.gpus_per_worker < 1:
            return min(by_cpu, devices * math.floor(1 / self.gpus_per_worker + EXACT))
        return min(by_cpu, math.floor(devices / self.gpus_per_worker + EXACT))

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{self.concurrent} trials at a time × {self.workers} workers × "
            f"(1 CPU + {self.data_cpus_per_worker:g} for data + {self.gpus_per_worker:g} GPU)"
        )
