"""The working folder of a sweep that is kept in a storage; stages/test_killed_sweep.py
has a sweep that outlives its machine."""

import shutil
import subprocess
import sys
import urllib.request
from argparse import Namespace
from pathlib import Path

import pytest
from repository import ROOT
from s3_server import s3_uri

from reid_core.command import make_out
from reid_core.errors import UserError
from reid_core.files.checksums import CHECKSUMS, write_checksums
from sweeps.machines import connect
from sweeps.machines.connect import check_shared
from sweeps.results.mirror import LARGE_BYTES, MARK, Mirror, blame_storage, open_out
from sweeps.results.result_folder import hold_out
from sweeps.results.storage import StorageError, open_storage

RECORD = "trials/trial-0000.json"


def write(folder, **contents):
    for name, text in contents.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def sweep_folder(storage, folder):
    """A mirror whose folder and storage have a sweep with one record."""
    folder.mkdir()
    mirror = Mirror(storage=storage, folder=folder)
    mirror.claim()
    mirror.pull()
    write(folder, **{RECORD: "epoch 1"})
    mirror.push()
    return mirror


def other_machine(storage, folder):
    folder.mkdir()
    mirror = Mirror(storage=storage, folder=folder)
    mirror.claim()
    mirror.pull()
    return mirror


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MARK}


def test_another_machine_has_what_the_storage_has(storage, tmp_path):
    mirror = sweep_folder(storage, tmp_path / "one")
    left_out = {"tune__session": "x", "cache__images": "x", "best.part__model": "x", "x.part": "x", ".hidden": "x"}
    checkpoint = {"trials__trial-0000__checkpoint_1__last": "x"}
    results = {"result.json": "{}", "best__model": "w", "groups__cache__best__model": "x", "store__p.log": "a"}
    write(mirror.folder, **left_out, **checkpoint, **results)
    write_checksums(mirror.folder / "best", ["model"])
    mirror.push()
    kept = {name.replace("__", "/") for name in results} | {RECORD, f"best/{CHECKSUMS}"}
    assert set(storage.list_files()) == kept
    storage.write("trials/trial-0000/checkpoint_1/last", b"by Ray")
    assert files(other_machine(storage, tmp_path / "other").folder) == kept
    assert (tmp_path / "other" / RECORD).read_text() == "epoch 1"


def test_only_what_changed_is_sent_and_what_went_is_deleted(storage, tmp_path, monkeypatch):
    mirror = sweep_folder(storage, tmp_path / "work")
    write(mirror.folder, gone="x")
    mirror.push()
    written, write_one = [], type(storage).write
    monkeypatch.setattr(type(storage), "write", lambda *each: (written.append(each[1]), write_one(*each)))
    mirror.push()
    assert written == []
    write(
        mirror.folder, **{RECORD: "epoch 2", "result.json": "{}", "best__model": "m", f"best__{CHECKSUMS}": "s"}, z="1"
    )
    write(mirror.folder, **{"finished.json": "{}"})
    (mirror.folder / "gone").unlink()
    mirror.push()
    # What says that other files are there comes after them.
    assert written == ["best/model", RECORD, "z", f"best/{CHECKSUMS}", "result.json", "finished.json"]
    assert storage.read(RECORD) == b"epoch 2"
    assert storage.read("gone") is None


def test_a_log_of_pairs_is_sent_when_it_has_grown_and_the_longer_one_stays(storage, tmp_path):
    mirror = sweep_folder(storage, tmp_path / "work")
    log = mirror.folder / "store" / "pairs.log"
    write(mirror.folder, store__pairs="", **{"store__pairs.log": "a" * 100})
    mirror.push()
    log.write_text("a" * 110)
    mirror.push()
    assert len(storage.read("store/pairs.log")) == 100
    log.write_text("a" * 130)
    mirror.push()
    assert len(storage.read("store/pairs.log")) == 130
    log.write_text("a" * 131)
    mirror.pull()
    assert len(log.read_text()) == 131
    mirror.push(everything=True)
    assert len(storage.read("store/pairs.log")) == 131


def test_the_storage_is_the_truth(storage, tmp_path):
    mirror = sweep_folder(storage, tmp_path / "work")
    other = other_machine(storage, tmp_path / "other")
    write(other.folder, **{RECORD: "epoch 9", "trials__trial-0001.json": "new"})
    other.push()
    write(mirror.folder, **{RECORD: "epoch 2, never sent", "trials__trial-0002.json": "never sent", "cache__x": "mine"})
    mirror.pull()
    assert (mirror.folder / RECORD).read_text() == "epoch 9"
    assert files(mirror.folder) == {RECORD, "trials/trial-0001.json", "cache/x"}
    storage.delete("trials")  # by hand, to begin again
    mirror.pull()
    assert files(mirror.folder) == {"cache/x"}


def test_large_files_that_are_here_are_not_fetched_and_damaged_ones_are(storage, tmp_path, monkeypatch):
    mirror = sweep_folder(storage, tmp_path / "work")
    model = mirror.folder / "best" / "model"
    write(mirror.folder, best__model="w" * LARGE_BYTES)
    write_checksums(model.parent, ["model"])
    mirror.push()
    fetched, read_one = [], type(storage).read
    monkeypatch.setattr(type(storage), "read", lambda *each: (fetched.append(each[1]), read_one(*each))[1])
    mirror.pull()
    assert sorted(fetched) == [f"best/{CHECKSUMS}", RECORD]
    model.write_text("v" * LARGE_BYTES)
    mirror.pull()
    assert model.read_text() == "w" * LARGE_BYTES


def test_a_folder_with_other_files_is_not_a_working_folder(storage, uri, tmp_path):
    write(tmp_path / "home", thesis="x")
    options = Namespace(out=uri, work=tmp_path / "home")
    with pytest.raises(UserError, match=r"--work .*/home: is not empty, and not the working folder of"):
        open_out(options)
    assert files(tmp_path / "home") == {"thesis"}
    folder, mirror = open_out(Namespace(out=uri, work=tmp_path / "work"))
    assert (folder, mirror.folder) == (tmp_path / "work", tmp_path / "work")
    open_out(Namespace(out=uri, work=tmp_path / "work"))
    write(tmp_path / "work", result="of this storage")
    other = f"file://{tmp_path}/elsewhere"
    with pytest.raises(UserError, match="not the working folder of file://"):
        open_out(Namespace(out=other, work=tmp_path / "work"))


def test_a_folder_and_a_uri_are_distinguished(tmp_path):
    assert open_out(Namespace(out=str(tmp_path / "out"), work=None)) == (tmp_path / "out", None)
    with pytest.raises(UserError, match="--work here: is for an --out that is a URI"):
        open_out(Namespace(out=str(tmp_path / "out"), work="here"))
    with pytest.raises(UserError, match=r"--out s3:/bucket/runs: a URI; here it must be a folder"):
        make_out(Path("s3://bucket/runs"))


def test_nodes_that_would_not_see_one_folder_are_refused(caplog):
    uri = Namespace(out="s3://bucket/runs?scheme=http", work=None)
    check_shared(uri, num_nodes=1)
    check_shared(Namespace(out=uri.out, work=Path("/mnt/shared")), num_nodes=3)
    with pytest.raises(UserError, match=r"--out s3://bucket/runs\?scheme=http: on a cluster of 3 nodes, --work must"):
        check_shared(uri, num_nodes=3)
    with caplog.at_level("WARNING", logger=connect.__name__):
        check_shared(Namespace(out="runs/here", work=None), num_nodes=3)
    assert "--out runs/here is relative" in caplog.text


def test_no_name_in_a_storage_leads_out_of_the_working_folder(moto, tmp_path):
    for key in ("..%2Fevil.json", "trials%2F..%2F..%2Fevil.json", ".hidden"):
        url = f"http://127.0.0.1:{moto}/bucket/out/{key}"
        urllib.request.urlopen(urllib.request.Request(url, data=b"evil", method="PUT")).close()
    storage = open_storage(s3_uri(moto, "bucket/out"), waits_s=())
    (tmp_path / "deep" / "work").mkdir(parents=True)
    Mirror(storage=storage, folder=tmp_path / "deep" / "work").pull()
    assert files(tmp_path) == set()


def test_what_fails_because_of_the_storage_is_reported_as_that(tmp_path):
    storage = open_storage(f"file://{tmp_path}/remote", waits_s=())
    mirror = Mirror(storage=storage, folder=tmp_path)
    with pytest.raises(ZeroDivisionError), blame_storage(mirror):  # the storage is there
        raise ZeroDivisionError
    (tmp_path / "remote").rmdir()
    (tmp_path / "remote").touch()
    with pytest.raises(StorageError, match="--out file://"), blame_storage(mirror):
        raise ZeroDivisionError
    with pytest.raises(UserError, match="own"), blame_storage(mirror):
        raise UserError("own")
    with pytest.raises(ZeroDivisionError), blame_storage(None):
        raise ZeroDivisionError


def test_a_lost_working_folder_empties_no_storage(storage, tmp_path):
    mirror = sweep_folder(storage, tmp_path / "work")
    shutil.rmtree(mirror.folder)
    for _ in range(2):  # gone, then replaced by an empty one
        with pytest.raises(UserError, match=r"--work .*/work: is gone, or was replaced"):
            mirror.push()
        mirror.folder.mkdir(exist_ok=True)
    assert storage.list_files() == [RECORD]


def test_a_folder_that_vanishes_while_it_is_listed_hides_no_other(tmp_path, monkeypatch):
    write(tmp_path, a__x="1", b__x="2", c="3")
    stat = Path.stat

    def gone(self, **options):
        if self.parent.name == "a":
            raise FileNotFoundError
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", gone)
    storage = open_storage(f"file://{tmp_path}/remote")
    assert {"b/x", "c"} <= Mirror(storage=storage, folder=tmp_path)._list().keys()


def test_a_shorter_log_of_pairs_gives_way_to_the_longer_one(storage, tmp_path):
    mirror = sweep_folder(storage, tmp_path / "work")
    write(mirror.folder, **{"store__pairs.log": "a" * 10})
    mirror.push()
    other = other_machine(storage, tmp_path / "other")
    write(other.folder, **{"store__pairs.log": "a" * 100})
    other.push()
    mirror.pull()
    assert len((mirror.folder / "store" / "pairs.log").read_text()) == 100
    mirror.push(everything=True)
    assert len(storage.read("store/pairs.log")) == 100


def test_a_second_command_waits_for_the_first_and_is_refused(tmp_path):
    script = "import sys, time; from pathlib import Path; from sweeps.results.result_folder import hold_out; "
    hold = f"{script} hold_out(Path({str(tmp_path)!r}), patience_s=0); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another process is at work there"):
            hold_out(tmp_path, patience_s=0.3)
        first.kill()
    assert hold_out(tmp_path) == tmp_path
    assert hold_out(tmp_path) == tmp_path


def test_a_full_disk_here_is_reported_at_once(storage, tmp_path):
    mirror = sweep_folder(storage, tmp_path / "work")
    write(mirror.folder, y="content")
    mirror.push()
    (tmp_path / "work" / "y").unlink()
    (tmp_path / "work" / "y.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"work/y: cannot be written: No space left on device"):
        mirror.pull()
