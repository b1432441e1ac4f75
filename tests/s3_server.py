"""moto's S3 server on loopback, and storages for the tests (`conftest.py` makes its fixtures known)."""

import json
import subprocess
import sys
import urllib.request

import pytest

from sweeps.results.storage import open_storage

SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the tests end, however they do
"""
SECRET = "hunter2"


@pytest.fixture(scope="session")
def moto():
    """Port of an S3 server that has the buckets "bucket" and "closed"; nobody may write into the latter."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # the sweep's own (`connect.ENVIRONMENT`)
        }.items():
            patch.setenv(name, value)
        with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            port = int(server.stdout.readline())
            denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::closed/*"}
            policy = json.dumps({"Version": "2012-10-17", "Statement": [denied]}).encode()
            for path, data in (("bucket", b""), ("closed", b""), ("closed?policy", policy)):
                headers = {"Content-Type": "application/json"}
                url = f"http://127.0.0.1:{port}/{path}"
                urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers, method="PUT")).close()
            yield port
            server.stdin.close()


def s3_uri(port, place):
    """URI of a bucket and folder of the server."""
    return f"s3://{place}?endpoint_override=127.0.0.1:{port}&scheme=http"


@pytest.fixture(params=["file", "s3"])
def uri(request, tmp_path):
    """Of a storage that has nothing yet."""
    if request.param == "file":
        return f"file://{tmp_path}/remote"
    return s3_uri(request.getfixturevalue("moto"), f"bucket/{tmp_path.name}")


@pytest.fixture
def storage(uri):
    """The same, opened; what fails is not tried again."""
    return open_storage(uri, waits_s=())
