"""Storage beyond this machine: the same promises on a local `file://` URI and on moto's S3 server on loopback.

The server runs in a process of its own (this Python's, or `REID_MOTO_PYTHON`'s if moto is installed elsewhere).
"""

import json
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from fsspec.implementations.local import LocalFileSystem

from reid_core.checksums import CHECKSUMS, verify_checksums, write_checksums
from reid_core.config import UserError
from sweeps import storage as storage_module
from sweeps.storage import Mirror, Storage, StorageError, open_storage, work_folder

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


@pytest.fixture(scope="module")
def moto():
    """Port of an S3 server that has the buckets "bucket" and "closed"; nobody may write into the latter."""
    python = os.environ.get("REID_MOTO_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import moto.server"], capture_output=True).returncode:
        pytest.skip("moto's server is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the sweep's own (`connect.ENVIRONMENT`)
        }.items():
            patch.setenv(name, value)
        with subprocess.Popen([python, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            port = int(server.stdout.readline())
            denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::closed/*"}
            policy = json.dumps({"Version": "2012-10-17", "Statement": [denied]}).encode()
            for path, data in (("bucket", b""), ("closed", b""), ("closed?policy", policy)):
                headers = {"Content-Type": "application/json"}
                url = f"http://127.0.0.1:{port}/{path}"
                urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers, method="PUT")).close()
            yield port
            server.stdin.close()


@pytest.fixture(params=["file", "s3"])
def uri(request, tmp_path):
    """Of a storage that has nothing yet."""
    if request.param == "file":
        return f"file://{tmp_path}/remote"
    return s3_uri(request.getfixturevalue("moto"), f"bucket/{tmp_path.name}")


def s3_uri(port, place):
    return f"s3://{place}?endpoint_override=127.0.0.1:{port}&scheme=http"


@pytest.fixture
def storage(uri):
    return open_storage(uri, waits_s=())


class Faulty(LocalFileSystem):
    """A slow file system that fails the next `failures` times that a file is opened, and notes what was opened."""

    cachable = False
    failures, message = 0, "connection reset by peer"
    wait_s = 0.0

    def __init__(self):
        super().__init__()
        self.opened = []

    def _open(self, path, mode="rb", **options):
        if self.failures:
            self.failures -= 1
            raise OSError(self.message)
        self.opened.append((mode, Path(path).name))
        time.sleep(self.wait_s)
        return super()._open(path, mode=mode, **options)


def faulty_storage(folder, *, waits_s=(0.0, 0.0)):
    faults = Faulty()
    filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(faults))
    return faults, Storage(filesystem=filesystem, path=str(folder), uri="faulty://", waits_s=waits_s)


def write(folder, **contents):
    for name, text in contents.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_files_are_the_same_there_and_back(storage, tmp_path):
    contents = {"empty": b"", "a/small.json": b"{}", "a/b/large": os.urandom(6_000_000)}  # large: in several parts
    for name, data in contents.items():
        (tmp_path / "local").write_bytes(data)
        storage.upload(tmp_path / "local", name)
        assert storage.read(name) == data
        storage.download(name, tmp_path / "new" / name)
        assert (tmp_path / "new" / name).read_bytes() == data
    assert storage.list_files() == sorted(contents)
    assert storage.list_files("a") == ["a/b/large", "a/small.json"]
    storage.delete("a")
    storage.delete("a")
    assert storage.list_files() == ["empty"]
    assert storage.read("a/small.json") is None
    with pytest.raises(StorageError, match=r"a/small\.json cannot be fetched"):
        storage.download("a/small.json", tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_a_reader_sees_the_old_file_or_the_new_one(storage):
    versions = [bytes([number]) * 6_000_000 for number in range(4)]
    storage.write("file", versions[0])
    seen, ended = [], threading.Event()

    def read():
        while not ended.is_set():
            seen.append(storage.read("file"))

    reader = threading.Thread(target=read)
    reader.start()
    for version in versions[1:]:
        storage.write("file", version)
    ended.set()
    reader.join()
    assert seen
    assert all(content in versions for content in seen)


def test_a_storage_that_cannot_be_used_is_told_with_its_flag_and_reason(moto, tmp_path):
    (tmp_path / "file").touch()
    for uri, reason in {
        "s3://[bucket/x": "Invalid IPv6",
        "ftp://host/x": "Unrecognized filesystem type",
        "s3:/bucket": "bucket",
        "file:relative/x": "relative",
        "file:///": "names no bucket or folder",
        f"file://{tmp_path}/file/x": "Not a directory",
        s3_uri(moto, "none/x"): "there is no such bucket",
        s3_uri(moto, "closed/x"): "access is denied",
        s3_uri(1, "bucket/x"): "it cannot be reached",  # nobody listens on port 1
    }.items():
        with pytest.raises(UserError, match=f"^--out.*{reason}") as told:
            open_storage(uri)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        (f"s3://tester:{SECRET}@bucket/x", "credentials do not belong in a URI"),
        (f"s3://tester:a/{SECRET}@bucket/x", "credentials do not belong in a URI"),
        ("s3://tester@bucket/x", "credentials do not belong in a URI"),
        (f"abfs://tester:{SECRET}@account/x", "credentials do not belong in a URI"),
        (f"s3://bucket/x?secret_key={SECRET}", "--out s3://bucket/x: Unexpected query parameter"),
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri, reason):
    with pytest.raises(UserError, match=reason) as told:
        open_storage(uri)
    assert SECRET not in str(told.value)
    assert "tester" not in str(told.value)


def test_a_storage_travels_without_credentials(moto):
    storage = open_storage(s3_uri(moto, "bucket/travel"), waits_s=())
    sent = pickle.dumps(storage)
    assert SECRET.encode() not in sent
    storage.write("x", b"1")
    assert pickle.loads(sent).read("x") == b"1"
    assert pickle.loads(sent) == storage


def test_the_working_folder_depends_on_the_place_alone():
    one = work_folder("s3://bucket/runs?scheme=http&endpoint_override=127.0.0.1:9000")
    assert one == work_folder("s3://bucket/runs/?endpoint_override=127.0.0.1:9000&scheme=http")
    assert one != work_folder("s3://bucket/other?scheme=http&endpoint_override=127.0.0.1:9000")
    assert one.is_absolute()


def test_an_outage_is_waited_for_and_then_told(tmp_path, caplog):
    faults, storage = faulty_storage(tmp_path / "remote")
    faults.failures = 2
    with caplog.at_level(logging.WARNING):
        storage.write("x", b"1")
    assert storage.read("x") == b"1"
    assert [record.getMessage() for record in caplog.records] == [
        "--out faulty://: x cannot be written: connection reset by peer; again in 0 s"
    ] * 2
    faults.failures = 3
    with pytest.raises(StorageError, match="x cannot be read: connection reset by peer; once that is mended"):
        storage.read("x")
    faults.failures, faults.message = 3, "AWS Error ACCESS_DENIED during PutObject operation"
    with pytest.raises(StorageError, match="x cannot be written: access is denied"):
        storage.write("x", b"2")
    assert faults.failures == 2  # no second attempt at what cannot succeed


def test_a_full_disk_here_is_told_at_once(storage, tmp_path):
    storage.write("x", b"content")
    (tmp_path / "x.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=rf"x cannot be fetched as {tmp_path}/x: No space left on device; once"):
        storage.download("x", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    mirror = Mirror(storage=storage, folder=tmp_path / "work")
    mirror.pull()
    (tmp_path / "work" / "y.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"work/y: cannot be written: No space left on device; once it can"):
        mirror.write(tmp_path / "work" / "y", "content")


def test_a_folder_arrives_whole_or_not_at_all(tmp_path):
    faults, storage = faulty_storage(tmp_path / "remote", waits_s=())
    write(tmp_path / "here", a="1", b__c="2", d_part="3", **{"e.part": "unfinished"})
    write_checksums(tmp_path / "here", ["a", "b/c"])
    storage.upload_folder(tmp_path / "here", "folder")
    written = [name.removesuffix(".part") for mode, name in faults.opened if mode == "wb"]
    assert written == ["a", "c", "d_part", CHECKSUMS, "folder.sha256"]
    storage.download_folder("folder", tmp_path / "there")
    verify_checksums(tmp_path / "there", ["a", "b/c"])
    assert (tmp_path / "there" / "b" / "c").read_text() == "2"

    write(tmp_path / "here", a="one", d_part="three")
    (tmp_path / "here" / "b" / "c").unlink()
    open_file = Faulty._open
    faults._open = lambda path, **options: open_file(faults, fail_on("d_part.part", path), **options)
    with pytest.raises(StorageError, match="d_part"):
        storage.upload_folder(tmp_path / "here", "folder")
    with pytest.raises(UserError, match="folder/a does not fit its checksum"):
        storage.download_folder("folder", tmp_path / "elsewhere")
    del faults._open
    storage.upload_folder(tmp_path / "here", "folder")
    assert storage.list_files() == ["folder.sha256", "folder/SHA256SUMS", "folder/a", "folder/d_part"]
    storage.download_folder("folder", tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "d_part").read_text() == "three"
    with pytest.raises(UserError, match="nothing is not there") as told:
        storage.download_folder("nothing", tmp_path / "elsewhere")
    assert not isinstance(told.value, StorageError)  # which says: try again later


def fail_on(name, path):
    if Path(path).name == name:
        raise OSError("broken pipe")
    return path


def test_the_processes_of_a_node_fetch_a_folder_once_and_then_what_is_missing(tmp_path):
    faults, storage = faulty_storage(tmp_path / "remote")
    write(tmp_path / "here", a="1" * 1000, b="2" * 1000)
    storage.upload_folder(tmp_path / "here", "cache")
    faults.opened.clear()
    faults.wait_s = 0.05  # long enough for all workers to look before one has fetched
    workers = [threading.Thread(target=storage.download_folder, args=("cache", tmp_path / "node")) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(name for _, name in faults.opened if name != "cache.sha256") == ["a", "b"]

    faults.opened.clear()
    write(tmp_path / "node", b="damaged", mine="stays")
    (tmp_path / ".node.sha256").unlink()  # as if it had not been fetched to its end
    storage.download_folder("cache", tmp_path / "node")
    assert [name for _, name in faults.opened if name != "cache.sha256"] == ["b"]
    assert (tmp_path / "node" / "mine").read_text() == "stays"


RECORD = "trials/trial-0000.json"


def sweep_folder(storage, folder):
    """A mirror whose folder and storage have a sweep with one record."""
    mirror = Mirror(storage=storage, folder=folder)
    mirror.pull()
    (folder / "trials").mkdir(exist_ok=True)
    mirror.write(folder / RECORD, "epoch 1")
    return mirror


def test_another_machine_resumes_from_the_storage_alone(storage, tmp_path):
    mirror = sweep_folder(storage, tmp_path / "one")
    assert storage.read(RECORD) == b"epoch 1"
    write(
        mirror.folder,
        best__model="weights",
        best__SHA256SUMS="",
        rows__metric__best__model="others",
        rows__metric__best__SHA256SUMS="",
        tune__session="x",
        cache__images="x",
        **{"result.json": "{}"},
    )
    write(mirror.folder, **{"store__pairs.log": "ab", "trials__trial-0000__checkpoint_1__last": "x", "x.part": "x"})
    mirror.push_all()
    bundles = [f"{folder}best{end}" for folder in ("", "rows/metric/") for end in (".sha256", "/SHA256SUMS", "/model")]
    assert storage.list_files() == sorted([*bundles, "result.json", "store/pairs.log", RECORD])
    storage.write("trials/trial-0000/checkpoint_1/last", b"by Ray")
    other = Mirror(storage=storage, folder=tmp_path / "other")
    other.pull()
    found = {path.relative_to(other.folder).as_posix() for path in other.folder.rglob("*") if path.is_file()}
    assert found - {".mirror.json", ".mirror.lock"} == {"result.json", "store/pairs.log", RECORD}
    assert (other.folder / RECORD).read_text() == "epoch 1"
    assert (other.fetch(other.folder / "best") / "model").read_text() == "weights"


def test_what_did_not_arrive_is_sent_by_the_next_session(tmp_path):
    faults, storage = faulty_storage(tmp_path / "remote", waits_s=())
    mirror = sweep_folder(storage, tmp_path / "work")
    faults.failures = 1
    with pytest.raises(StorageError, match=rf"until then the newest is {tmp_path}/work/{RECORD}"):
        mirror.write(mirror.folder / RECORD, "epoch 2")
    assert storage.read(RECORD) == b"epoch 1"
    mirror.pull()
    assert storage.read(RECORD) == b"epoch 2"
    (mirror.folder / RECORD).write_text("epoch 3")  # by who knows nothing of mirrors
    faults.failures = 1
    with pytest.raises(StorageError):
        mirror.push(mirror.folder / RECORD)
    mirror.pull()
    assert storage.read(RECORD) == (mirror.folder / RECORD).read_bytes() == b"epoch 3"


def test_what_another_session_wrote_since_counts(tmp_path, caplog):
    faults, storage = faulty_storage(tmp_path / "remote", waits_s=())
    mirror = sweep_folder(storage, tmp_path / "work")
    faults.failures = 1
    with pytest.raises(StorageError):
        mirror.write(mirror.folder / RECORD, "epoch 2, here")
    other = Mirror(storage=storage, folder=tmp_path / "other")
    other.pull()
    other.write(other.folder / RECORD, "epoch 9, there")
    mirror.pull()
    assert (mirror.folder / RECORD).read_text() == "epoch 9, there"
    assert (mirror.folder / f"{RECORD}.kept").read_text() == "epoch 2, here"
    assert "which counts" in caplog.text
    mirror.push_all()
    assert storage.list_files() == [RECORD]


def test_a_damaged_file_is_fetched_a_deleted_one_goes_and_a_longer_log_stays(storage, tmp_path):
    mirror = sweep_folder(storage, tmp_path / "work")
    write(mirror.folder, gone="x", **{"pairs.log": "ab"})
    mirror.push_all()
    write(mirror.folder, **{RECORD: "epoch 1#", "pairs.log": "abcd"})
    storage.delete("gone")
    mirror.pull()
    assert (mirror.folder / RECORD).read_text() == "epoch 1"
    assert not (mirror.folder / "gone").exists()
    assert (mirror.folder / "pairs.log").read_text() == "abcd"
    mirror.push_all()
    assert storage.read("pairs.log") == b"abcd"
    (mirror.folder / storage_module.LEDGER).write_text("damaged")
    write(mirror.folder, **{RECORD: "epoch ?"})
    mirror.pull()
    assert (mirror.folder / RECORD).read_text() == "epoch 1"


def test_no_name_in_a_storage_leads_out_of_the_working_folder(moto, tmp_path):
    for key in ("..%2Fevil.json", "trials%2F..%2F..%2Fevil.json", ".hidden"):
        url = f"http://127.0.0.1:{moto}/bucket/out/{key}"
        urllib.request.urlopen(urllib.request.Request(url, data=b"evil", method="PUT")).close()
    storage = open_storage(s3_uri(moto, "bucket/out"), waits_s=())
    Mirror(storage=storage, folder=tmp_path / "deep" / "work").pull()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".mirror")] == []
    digest = "0" * 64
    storage.write("cache.sha256", f"{digest}  ../../evil.json\n".encode())
    with pytest.raises(UserError, match="not written to its end"):
        storage.download_folder("cache", tmp_path / "deep" / "cache")


def train(settings):
    """Two epochs more, from the newest whole checkpoint in the storage."""
    import ray.train

    storage = settings["storage"]
    names = storage.list_files("trials/trial-0000")
    newest = max(name for name in names if name.endswith(f"/{CHECKSUMS}")).removesuffix(f"/{CHECKSUMS}")
    with tempfile.TemporaryDirectory() as folder:
        storage.download_folder(newest, Path(folder) / "checkpoint")
        first = 1 + int((Path(folder) / "checkpoint" / "epoch").read_text())
    for epoch in (first, first + 1):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "epoch").write_text(str(epoch))
            write_checksums(Path(folder), ["epoch"])
            ray.train.report({"epoch": epoch}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def test_ray_train_resumes_from_the_storage_and_keeps_its_checkpoints_there(moto, local_ray, tmp_path):
    from ray.train import CheckpointConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    storage = open_storage(s3_uri(moto, "bucket/sweep"))
    write(tmp_path / "checkpoint", epoch="6")
    write_checksums(tmp_path / "checkpoint", ["epoch"])
    for file in ("epoch", CHECKSUMS):
        storage.upload(tmp_path / "checkpoint" / file, f"trials/trial-0000/checkpoint_2020-01-01_00-00-06/{file}")
    storage.write("trials/trial-0000/checkpoint_2020-01-01_00-00-07/epoch", b"7")  # was not written to its end
    result = TorchTrainer(
        train,
        train_loop_config={"storage": storage},
        scaling_config=ScalingConfig(num_workers=1),
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(
            name="trial-0000",
            storage_path=storage.at("trials"),
            storage_filesystem=storage.filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    ).fit()
    assert result.metrics == {"epoch": 8}
    assert result.checkpoint.path.startswith("bucket/sweep/trials/trial-0000/checkpoint_")
    assert result.checkpoint.filesystem == storage.filesystem
    with result.checkpoint.as_directory() as folder:
        assert (Path(folder) / "epoch").read_text() == "8"
    names = [name for name in storage.list_files("trials") if "_2020-" not in name and name.endswith("/epoch")]
    assert [storage.at(name) for name in names] == [f"{result.checkpoint.path}/epoch"]  # Train deleted the other
