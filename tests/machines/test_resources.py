"""What a sweep needs of a cluster, and whether the cluster has it."""

from sweeps.machines.resources import Resources, driver_resources


def test_resources_add_up():
    resources = Resources(concurrent=2, workers=3, gpus_per_worker=1, data_cpus_per_worker=4)
    assert resources.cpus == 2 * (0.01 + 3 * 5)
    assert resources.gpus == 6
    assert resources.logical_cpus() == 31
    assert resources.shortage({"CPU": 31, "GPU": 6}) is None


def test_drivers_take_the_head_s_slots_where_there_are_any():
    assert driver_resources({"CPU": 8}) == {"CPU": 0.01}
    assert driver_resources({"CPU": 8, "TRAIN_DRIVER": 4}) == {"CPU": 0, "TRAIN_DRIVER": 1}
    resources = Resources(concurrent=2, workers=1)
    assert resources.shortage({"CPU": 8, "TRAIN_DRIVER": 2}) is None
    assert "2 TRAIN_DRIVERs" in resources.shortage({"CPU": 8, "TRAIN_DRIVER": 1})


def test_a_cluster_that_is_too_small_is_refused_with_numbers():
    resources = Resources(concurrent=2, workers=2, data_cpus_per_worker=1)
    reason = resources.shortage({"CPU": 8})
    assert "8.02 CPUs" in reason
    assert "the cluster has 8" in reason
    assert "GPU" in Resources(gpus_per_worker=1).shortage({"CPU": 64})
    assert "NCCL" in Resources(gpus_per_worker=0.5, workers=2).shortage({"CPU": 64, "GPU": 4})
