"""What a look at the cluster counts: what this sweep asks for and has, in words."""

from types import SimpleNamespace

from sweeps.machines.looking import Request, format_amounts, summarise, without_lost

DRIVER = Request("CREATED", ({"CPU": 0.01},))
SLOT = Request("CREATED", ({"CPU": 0, "TRAIN_DRIVER": 1},))


def test_amounts_in_words():
    assert format_amounts({"CPU": 0.99, "GPU": 0.0, "node:a": 1.0}) == "0.99 CPU, 0 GPU"
    assert format_amounts({"memory": 2.5e9}) == "2.5 GB of memory"
    assert format_amounts({"spot": 1}) == "what no node has"


def test_a_driver_waits_and_workers_compute():
    workers = ({"CPU": 1.0, "GPU": 0.5},) * 2
    seen = summarise([DRIVER, SLOT, Request("PENDING", workers), Request("FINISHED", workers)], "1 CPU")
    assert seen == (("1 × 1 CPU, 0.5 GPU + 1 CPU, 0.5 GPU",), False, "1 CPU")
    lost = Request("RESCHEDULING", workers)  # its node is gone
    assert summarise([DRIVER, lost], "").asked == ("1 × 1 CPU, 0.5 GPU + 1 CPU, 0.5 GPU",)
    for state in ("CREATED", "ALIVE", "RUNNING", "RUNNING_IN_RAY_GET"):
        assert summarise([DRIVER, Request(state, workers)], "") == ((), True, "")
    assert summarise([Request("ALIVE", ({"GPU": 0.5},))], "").is_at_work
    assert not summarise([Request("ALIVE", ({},))], "").is_at_work


def test_a_process_that_asks_for_nothing_and_starts_is_not_waited_for_in_vain():
    asked = summarise([Request("PENDING_CREATION", ({},)), Request("PENDING_CREATION", ({"node:head": 0.001},))], "")
    assert asked == ((), False, "")


def test_the_same_requests_are_counted():
    tasks = [Request("PENDING_NODE_ASSIGNMENT", ({"CPU": 1.0},))] * 3 + [Request("PENDING_CREATION", ({"GPU": 1.0},))]
    assert summarise(tasks, "").asked == ("1 × 1 GPU", "3 × 1 CPU")


def test_a_task_whose_process_was_killed_is_not_at_work_though_ray_calls_it_running():
    lost = SimpleNamespace(state="RUNNING", node_id="a", worker_pid=7)
    other_node = SimpleNamespace(state="RUNNING", node_id="b", worker_pid=8)
    runs = SimpleNamespace(state="RUNNING_IN_RAY_GET", node_id="a", worker_pid=8)
    waits = SimpleNamespace(state="PENDING_NODE_ASSIGNMENT", node_id=None, worker_pid=None)
    live = [SimpleNamespace(node_id="a", pid=8), SimpleNamespace(node_id="b", pid=7)]
    assert without_lost([lost, other_node, runs, waits], live) == [runs, waits]
