"""A local Ray: who can reach its dashboard; the message if it does not start."""

import os
import subprocess
import sys

import pytest
import ray
from repository import ROOT

from reid_core.errors import UserError
from sweeps.machines import connect
from sweeps.machines.connect import ray_at_work, start_local_ray
from sweeps.machines.resources import Resources

ASK = """
import urllib.error, urllib.request
import psutil, ray
from sweeps.machines.connect import start_local_ray

start_local_ray(1)
address = ray.get_runtime_context().gcs_address and ray._private.worker.global_worker.node.webui_url
port = int(address.rsplit(":", 1)[1])
hosts = {each.laddr.ip for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.laddr.port == port}
try:
    status = urllib.request.urlopen(f"http://{address}/api/jobs/").status
except urllib.error.HTTPError as error:
    status = error.code
print(sorted(hosts), status)
"""


def test_the_dashboard_listens_on_loopback_and_asks_for_a_token():
    own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}  # as in a new shell
    asked = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, env=own, capture_output=True, text=True, timeout=300)
    assert asked.stdout.splitlines()[-1:] == ["['127.0.0.1'] 401"], asked.stderr[-3000:]


def test_a_ray_that_does_not_start_is_tried_once_more_and_reported(monkeypatch):
    attempts = []

    def fail(**settings):
        attempts.append(settings)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(UserError, match="a local Ray does not start: The current node timed out"):
        start_local_ray(3)
    assert [settings["num_cpus"] for settings in attempts] == [3, 3]
    assert {settings["dashboard_host"] for settings in attempts} == {"127.0.0.1"}


def test_what_an_error_left_half_read_is_closed_before_ray_ends(monkeypatch):
    order = []
    monkeypatch.setattr(ray, "shutdown", lambda: order.append("shutdown"))

    def read():
        try:
            yield 1
            yield 2
        finally:
            order.append("closed")

    def fail_in_the_middle():
        rows = read()
        try:
            raise OSError(next(rows))
        except OSError as error:
            raise UserError("half read") from error

    with pytest.raises(UserError, match="half read"), ray_at_work():
        fail_in_the_middle()
    assert order == ["closed", "shutdown"]
    with ray_at_work():
        pass
    assert order[2:] == ["shutdown"]


def test_a_machine_of_two_cpus_gives_no_more_to_data(monkeypatch):
    monkeypatch.setattr(connect, "count_cpus", lambda: 2)
    assert connect.fit_data_cpus(Resources(data_cpus_per_worker=4.0), None).data_cpus_per_worker == 2  # with a GPU
    assert connect.fit_data_cpus(Resources(data_cpus_per_worker=0.5), 0.5).data_cpus_per_worker == 0.5
    assert connect.fit_data_cpus(Resources(data_cpus_per_worker=2.0), 2.0).data_cpus_per_worker == 2.0
    with pytest.raises(UserError, match=r"--data-cpus 2\.5: this machine has 2 CPUs; .*: give at most 2"):
        connect.fit_data_cpus(Resources(data_cpus_per_worker=2.5), 2.5)
