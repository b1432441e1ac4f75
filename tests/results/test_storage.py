"""Storage beyond this machine: the same promises on a local `file://` URI and on moto's S3 server on loopback."""

import logging
import os
import pickle
import threading

import pyarrow.fs as pafs
import pytest
from fsspec.implementations.local import LocalFileSystem
from s3_server import SECRET, s3_uri

from reid_core.errors import UserError
from sweeps.results.storage import Storage, StorageError, open_storage, work_folder


class Faulty(LocalFileSystem):
    """A file system that fails the next `failures` times that a file is opened."""

    cachable = False
    failures, message = 0, "connection reset by peer"

    def _open(self, path, mode="rb", **options):
        if self.failures:
            self.failures -= 1
            raise OSError(self.message)
        return super()._open(path, mode=mode, **options)


def faulty_storage(folder, *, waits_s=(0.0, 0.0)):
    faults = Faulty()
    filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(faults))
    return faults, Storage(filesystem=filesystem, path=str(folder), uri="faulty://", waits_s=waits_s)


def test_files_are_the_same_there_and_back(storage):
    contents = {"empty": b"", "a/small.json": b"{}", "a/b/large": os.urandom(6_000_000)}  # large: in several parts
    for name, data in contents.items():
        storage.write(name, data)
        assert storage.read(name) == data
    assert storage.list_files() == sorted(contents)
    assert storage.list_files("a") == ["a/b/large", "a/small.json"]
    storage.delete("a")
    storage.delete("a")
    assert storage.list_files() == ["empty"]
    assert storage.read("a/small.json") is None


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


def test_a_storage_that_cannot_be_used_is_reported_with_its_flag_and_reason(moto, tmp_path):
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
        with pytest.raises(UserError, match=f"^--out.*{reason}") as raised:
            open_storage(uri)
        assert "\n" not in str(raised.value)


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
    with pytest.raises(UserError, match=reason) as raised:
        open_storage(uri)
    assert SECRET not in str(raised.value)
    assert "tester" not in str(raised.value)


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


def test_an_outage_is_waited_for_and_then_reported(tmp_path, caplog):
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
