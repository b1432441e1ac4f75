"""The journal: records survive it, whoever wrote them."""

import os
import pickle
import time

from sweeps.results import journal as journals
from sweeps.results.journal import Journal, Record

METRICS = {"objective": 0.5, "geo_mean.cow": 0.5, "baks.cow": 0.4}
RECORDS = [
    Record("trial-0000", {"optim.lr_head": 1e-3}, "completed", reports=[{}, {}], metrics=METRICS, seconds=3.0),
    Record("trial-0001", {"optim.lr_head": 1e-4}, "pruned", reports=[{}]),
    Record("trial-0002", {"optim.lr_head": 1e-5}, "failed", reason="the loss is nan in epoch 1"),
]


def test_a_record_survives_the_journal(tmp_path):
    journal = Journal(tmp_path)
    for record in RECORDS:
        journal.write(record)
    assert journal.read() == RECORDS
    assert list(journal.by_name()) == [record.name for record in RECORDS]
    assert not list(tmp_path.glob("*.part"))


def test_records_of_any_name_are_read_in_the_order_of_their_names(tmp_path):
    journal = Journal(tmp_path)
    for name in ("online-0000", "batch16", "metric"):
        journal.write(Record(name, {}, start="checkpoint of another"))
    (tmp_path / "metric").mkdir()  # a trial's own folder lies beside its record
    (tmp_path / "metric" / "config.json").write_text("{}")
    assert [(record.name, record.start) for record in journal.read()] == [
        (name, "checkpoint of another") for name in ("batch16", "metric", "online-0000")
    ]


def test_a_half_written_record_is_not_read(tmp_path):
    journal = Journal(tmp_path)
    journal.write(RECORDS[0])
    (tmp_path / "trial-0001.json.part").write_text('{"name": "trial-')
    assert [record.name for record in journal.read()] == ["trial-0000"]


def test_a_stopped_trial_is_read_as_one_however_it_was_written_down(tmp_path):
    journal = Journal(tmp_path)
    journal.write(Record("trial-0000", {}, "stopped", reason="No space left on device"))
    # Versions before this status wrote "running" and the reason.
    journal.write(Record("trial-0001", {}, "running", reason="No space left on device"))
    journal.write(Record("trial-0002", {}, "running"))
    assert [record.status for record in journal.read()] == ["stopped", "stopped", "running"]
    assert not any(record.has_ended for record in journal.read())


def test_a_record_of_an_earlier_version_is_read(tmp_path):
    written = (
        '{"name": "trial-0000", "parameters": {"optim.lr_head": 0.001}, "status": "pruned", "reason": "", "reports": '
        '[{"epoch": 1, "loss": 0.1}], "metrics": {}, "checkpoint": "", "seconds": 1.5, "cpu_hours": 0.0, "gpu_hours": '
        '0.0, "retries": 0, "source": "", "start": "", "checksum": "7f20740b54043608"}'
    )
    (tmp_path / "trial-0000.json").write_text(written)
    (record,) = Journal(tmp_path).read()
    assert (record.status, record.parameters, record.seconds) == ("pruned", {"optim.lr_head": 0.001}, 1.5)
    Journal(tmp_path).write(record)
    assert (tmp_path / "trial-0000.json").read_text() == written


def settle(journal):
    """As if nothing had changed for a second."""
    for number, path in enumerate(sorted(journal.folder.glob("*.json"))):
        before_ns = time.time_ns() - 10**9 + number
        os.utime(path, ns=(before_ns, before_ns))


def test_what_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    journal, read = Journal(tmp_path), []
    read_record = journals._read_record
    monkeypatch.setattr(journals, "_read_record", lambda path: read.append(path.stem) or read_record(path))
    for record in RECORDS:
        journal.write(record)
    settle(journal)
    assert journal.read() == journal.read() == RECORDS
    assert read == [record.name for record in RECORDS]
    changed = Record("trial-0001", {"optim.lr_head": 1e-4}, "pruned", reports=[{}], seconds=9.0)
    Journal(tmp_path).write(changed)  # another process
    (tmp_path / "trial-0002.json").unlink()
    read.clear()
    for _ in range(2):
        assert journal.read() == [RECORDS[0], changed]
    assert read == ["trial-0001"] * 2  # written a moment ago: what is written next may look the same
    assert pickle.loads(pickle.dumps(journal)).read() == [RECORDS[0], changed]


def test_one_record_is_found_by_its_name(tmp_path):
    journal = Journal(tmp_path)
    journal.write(RECORDS[0])
    settle(journal)
    (known,) = journal.read()
    found = journal.find("trial-0000")
    assert found == known == RECORDS[0]
    found.status = "running"  # it is the caller's own
    assert journal.read() == [journal.find("trial-0000")] == [RECORDS[0]]
    assert journal.find("trial-0001") is None
