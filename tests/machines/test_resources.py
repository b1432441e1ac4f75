"""What a sweep needs of a cluster, and whether the cluster has it."""

import itertools

import pytest

from sweeps.machines.resources import Resources, driver_resources


def test_resources_add_up():
    resources = Resources(concurrent=2, workers=3, gpus_per_worker=1, data_cpus_per_worker=4)
    assert resources.cpus == 2 * (0.01 + 3 * 5)
    assert resources.gpus == 6
    assert resources.logical_cpus() == 31
    assert resources.shortage([{"CPU": 31, "GPU": 6}]) is None


def test_drivers_take_the_head_s_slots_where_there_are_any():
    assert driver_resources({"CPU": 8}) == {"CPU": 0.01}
    assert driver_resources({"CPU": 8, "TRAIN_DRIVER": 4}) == {"CPU": 0, "TRAIN_DRIVER": 1}
    resources = Resources(concurrent=2, workers=1)
    head = {"CPU": 0, "TRAIN_DRIVER": 2}
    assert resources.shortage([head, {"CPU": 8}]) is None
    assert resources.shortage([head, {"CPU": 4}]) is None  # 2 × (1 + 1), and nothing for the drivers
    assert "needs 4 CPUs" in resources.shortage([head, {"CPU": 3.99}])
    assert "needs 4.02 CPUs" in resources.shortage([{"CPU": 4}])
    assert "2 TRAIN_DRIVERs" in resources.shortage([{"CPU": 8, "TRAIN_DRIVER": 1}])


def test_a_cluster_that_is_too_small_is_refused_with_numbers():
    resources = Resources(concurrent=2, workers=2, data_cpus_per_worker=1)
    reason = resources.shortage([{"CPU": 8}])
    assert "8.02 CPUs" in reason
    assert "the cluster has 8" in reason
    assert "GPU" in Resources(gpus_per_worker=1).shortage([{"CPU": 64}])


@pytest.mark.parametrize(
    ("part", "workers", "nodes", "fits"),
    [
        (0.6, 2, [{"CPU": 9, "GPU": 2}], True),
        (0.6, 3, [{"CPU": 9, "GPU": 2}], False),  # 1.8 of 2 GPUs, and yet no device has 0.6 left
        (0.6, 2, [{"CPU": 9, "GPU": 1}], False),
        (0.4, 4, [{"CPU": 9, "GPU": 1}, {"CPU": 1, "GPU": 1}], False),  # the second node's CPUs carry one worker
        (0.4, 3, [{"CPU": 9, "GPU": 1}, {"CPU": 1, "GPU": 1}], True),
        (0.5, 4, [{"CPU": 9, "GPU": 2}], True),
        (1 / 3, 3, [{"CPU": 9, "GPU": 1}], True),
        (2, 2, [{"CPU": 9, "GPU": 3}, {"CPU": 9, "GPU": 1}], False),
        (2, 2, [{"CPU": 9, "GPU": 3}, {"CPU": 9, "GPU": 2}], True),
    ],
)
def test_a_part_of_a_gpu_is_of_one_device_and_a_worker_of_one_node(part, workers, nodes, fits):
    resources = Resources(concurrent=workers, workers=1, gpus_per_worker=part, data_cpus_per_worker=0.1)
    reason = resources.shortage(nodes)
    assert (reason is None) == fits, reason


def can_be_placed(resources: Resources, cpus: list[float]) -> bool:
    """Slow oracle: every way to put workers on nodes, and the drivers wherever something is left."""
    num_workers = resources.concurrent * resources.workers
    for places in itertools.combinations_with_replacement(range(len(cpus)), num_workers):
        left = [cpu - places.count(node) for node, cpu in enumerate(cpus)]
        if min(left) < 0:
            continue
        for holder, drivers in itertools.product(range(len(cpus)), [round(0.01 * resources.concurrent, 2)]):
            spare = [amount - drivers * (node == holder) for node, amount in enumerate(left)]
            if min(spare) >= -1e-9 and max(spare) >= resources.cpus_per_data_task - 1e-9:
                return True
    return False


def test_workers_and_a_data_task_must_find_their_places_on_nodes():
    """Of clusters whose sum is enough, those are refused in which no placing leaves room for a data task."""
    outcomes = set()
    for cpus in itertools.product([0.5, 0.9, 1.2, 1.5, 2.0], repeat=3):
        for concurrent, data_cpus in itertools.product([1, 2], [0.5, 1.0, 1.9]):
            resources = Resources(concurrent=concurrent, workers=1, data_cpus_per_worker=data_cpus)
            reason = resources.shortage([{"CPU": each} for each in cpus])
            if sum(cpus) >= resources.cpus:
                assert (reason is None) == can_be_placed(resources, list(cpus)), (cpus, resources, reason)
                outcomes.add(reason is None)
    assert outcomes == {True, False}
