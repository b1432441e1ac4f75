"""The pair store in one process: at most once, bit for bit, over crashes, damage, locks and a full disk."""

import errno
import logging
import os
import threading

import numpy as np
import pytest

from reid_core.data.photographs import UNREADABLE_KEY
from reid_core.errors import UserError
from reid_core.matching.pairs import log as pair_log
from reid_core.matching.pairs import store as pair_store
from reid_core.matching.pairs.store import KNOWN, PENDING, YOURS, PairStore, store_name
from reid_core.matching.pairs.table import PairTable

NAN = float("nan")


def key(number: int) -> str:
    return f"{number:032x}"


def codes(store: PairStore, pairs: list[tuple[int, int]]) -> np.ndarray:
    """Codes of pairs of images with these numbers as keys."""
    ids = store.register([key(number) for pair in pairs for number in pair]).reshape(-1, 2)
    return store.encode(ids[:, 0], ids[:, 1])


def put(store: PairStore, pairs: list[tuple[int, int]], scores: list[float]) -> None:
    store.put(codes(store, pairs), np.array(scores), "writer")


def known(store: PairStore, pairs: list[tuple[int, int]]) -> list[float | None]:
    """Scores of pairs; None where there is none."""
    score_P, known_P = store.look(codes(store, pairs))
    return [float(score) if is_known else None for score, is_known in zip(score_P, known_P, strict=True)]


def test_table_agrees_with_a_dictionary_while_it_grows():
    rng = np.random.default_rng(0)
    table, oracle = PairTable(np.uint32(0)), {}
    for _ in range(40):
        code_P = rng.integers(1, 9000, 500).astype(np.uint64) * np.uint64(2**32 + 1)  # with repeats
        bits_P = (code_P % np.uint64(977)).astype(np.uint32)
        table.set(code_P, bits_P)
        oracle |= dict(zip(code_P.tolist(), bits_P.tolist(), strict=True))
        assert table.num_used == len(oracle)
        asked_P = rng.integers(1, 12000, 2000).astype(np.uint64) * np.uint64(2**32 + 1)
        slot_P = table.find(asked_P)
        found = [int(table.bits_S[slot]) if slot >= 0 else None for slot in slot_P]
        assert found == [oracle.get(code) for code in asked_P.tolist()]
    assert len(table.codes_S) > 1024
    assert 12 * len(table.codes_S) / table.num_used <= 24


def test_scores_come_back_bit_for_bit_also_after_reopening(tmp_path):
    scores = np.array([0.1, -0.0, 1e-45, np.inf, -np.inf, 3.4e38], dtype=np.float32)
    pairs = [(1, number) for number in range(2, 8)]
    store = PairStore(tmp_path / "log", symmetric=True)
    pair_P = codes(store, pairs)
    store.claim(pair_P, "a")
    store.put(pair_P, scores, "a")
    assert store.claim(pair_P, "b")[0].tobytes() == scores.tobytes()
    store.close()
    again = PairStore(tmp_path / "log", symmetric=True)
    np.testing.assert_array_equal(codes(again, pairs), pair_P)
    assert again.look(pair_P)[0].tobytes() == scores.tobytes()


def test_a_file_of_many_batches_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(pair_store, "REPLAY_BYTES", 12 * 150)  # 20 pieces; the table grows at the 8th
    store = PairStore(tmp_path / "log", symmetric=False)
    ids = store.register([key(number) for number in range(1, 61)])
    pair_P = store.encode(np.repeat(ids, 50), np.tile(ids[:50], 60))
    for block in np.array_split(pair_P, 41):
        store.put(block, block % np.uint64(97), "a")
    store = _reopen(store, tmp_path / "log")
    score_P, known_P = store.look(pair_P)
    assert known_P.all()
    np.testing.assert_array_equal(score_P, pair_P % np.uint64(97))
    assert store.stats() == {"hits": 3000, "misses": 0, "scored": 0, "stored": 3000, "pending": 0}


def test_a_pair_that_cannot_be_scored_is_known_whatever_its_nan_looks_like(tmp_path):
    # The bits of this NaN are those of a pair that owner number 1 is scoring.
    strange = np.array([0xFFC00001], dtype=np.uint32).view(np.float32)
    store = PairStore(tmp_path / "log", symmetric=True)
    pair_P = codes(store, [(1, 2)])
    store.claim(pair_P, "first")
    store.put(pair_P, strange, "first")
    for opened in (store, _reopen(store, tmp_path / "log")):
        score_P, state_P = opened.claim(pair_P, "second")
        assert state_P.tolist() == [KNOWN]
        assert np.isnan(score_P).all()


def _reopen(store: PairStore, path) -> PairStore:
    store.close()
    return PairStore(path, symmetric=store.symmetric)


def test_only_a_symmetric_store_serves_a_pair_the_other_way_round():
    for symmetric, expected in ((True, 5.0), (False, None)):
        store = PairStore(None, symmetric=symmetric)
        put(store, [(1, 2)], [5.0])
        assert known(store, [(1, 2), (2, 1)]) == [5.0, expected]


def test_states_of_a_claim_and_counts():
    store = PairStore(None, symmetric=True)
    put(store, [(1, 2)], [5.0])
    pair_P = codes(store, [(1, 2), (3, 4), (4, 3), (3, 5)])
    assert store.claim(pair_P[:2], "a")[1].tolist() == [KNOWN, YOURS]
    assert store.claim(pair_P, "b")[1].tolist() == [KNOWN, PENDING, PENDING, YOURS]
    assert store.claim(pair_P[1:3], "a")[1].tolist() == [YOURS, PENDING]  # its own again, the repetition is not
    assert {name: pairs.tolist() for name, pairs in store.holders(pair_P, "b").items()} == {"a": pair_P[1:3].tolist()}
    assert store.stats() == {"hits": 2, "misses": 3, "scored": 1, "stored": 1, "pending": 2}
    store.put(pair_P[1:2], np.array([6.0]), "a")
    score_P, state_P = store.claim(pair_P[1:3], "b")
    assert (score_P.tolist(), state_P.tolist()) == ([6.0, 6.0], [KNOWN, KNOWN])
    assert store.stats() == {"hits": 4, "misses": 3, "scored": 2, "stored": 2, "pending": 1}


def test_released_pairs_are_free_and_a_late_score_changes_nothing():
    store = PairStore(None, symmetric=True)
    pair_P = codes(store, [(1, 2), (3, 4)])
    store.claim(pair_P, "slow")
    store.put(pair_P[:1], np.array([1.0]), "slow")
    store.release("slow")
    store.release("a stranger")
    assert store.claim(pair_P, "fast")[1].tolist() == [KNOWN, YOURS]
    store.put(pair_P[1:], np.array([2.0]), "fast")
    store.put(pair_P, np.array([8.0, 9.0]), "slow")
    assert store.look(pair_P)[0].tolist() == [1.0, 2.0]


def test_unreadable_images_share_no_score_and_are_never_to_be_scored():
    store = PairStore(None, symmetric=False)
    ids = store.register([UNREADABLE_KEY, key(1), UNREADABLE_KEY])
    pair_P = store.encode(ids[[0, 1, 0, 1]], ids[[1, 2, 2, 1]])
    store.put(pair_P[:3], np.ones(3), "a")
    score_P, state_P = store.claim(pair_P, "b")
    assert state_P.tolist() == [KNOWN, KNOWN, KNOWN, YOURS]
    assert np.isnan(score_P).all()


def test_a_changed_photograph_misses():
    store = PairStore(None, symmetric=True)
    put(store, [(1, 2)], [5.0])
    assert known(store, [(1, 2), (1, 3)]) == [5.0, None]


def test_each_pair_is_scored_at_most_once_by_concurrent_threads():
    store = PairStore(None, symmetric=True)
    ids = store.register([key(number) for number in range(1, 61)])
    all_pairs = store.encode(*np.triu_indices(60, 1) + ids[0])

    def work(seed: int) -> None:
        asked_P = np.random.default_rng(seed).permutation(all_pairs)
        for block in np.array_split(asked_P, 40):
            _, state_P = store.claim(block, f"thread {seed}")
            yours = block[state_P == YOURS]
            scored.extend(yours.tolist())
            store.put(yours, (yours % 101).astype(np.float32), f"thread {seed}")

    scored: list[int] = []
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(scored) == sorted(all_pairs.tolist())
    np.testing.assert_array_equal(store.look(all_pairs)[0], (all_pairs % 101).astype(np.float32))


def test_a_file_cut_at_any_byte_of_its_last_batch_loses_that_batch_only(tmp_path, caplog):
    path = tmp_path / "log"
    store = PairStore(path, symmetric=True)
    put(store, [(1, 2), (1, 3)], [1.0, 2.0])
    before_keys = path.stat().st_size
    codes(store, [(4, 5)])
    before_pairs = path.stat().st_size
    put(store, [(4, 5), (1, 5)], [3.0, 4.0])
    store.close()
    content = path.read_bytes()
    for size in range(before_keys, len(content)):
        path.write_bytes(content[:size])
        caplog.clear()
        store = PairStore(path, symmetric=True)
        is_cut = size not in (before_keys, before_pairs)
        assert [str(path) in record.message for record in caplog.records] == [True] * is_cut
        assert known(store, [(1, 2), (1, 3), (4, 5), (1, 5)]) == [1.0, 2.0, None, None]
        put(store, [(4, 5), (1, 6)], [5.0, 6.0])
        store = _reopen(store, path)
        assert known(store, [(1, 2), (1, 3), (4, 5), (1, 5), (1, 6)]) == [1.0, 2.0, 5.0, None, 6.0]
        store.close()


def test_a_file_cut_within_its_header_begins_anew(tmp_path):
    path = tmp_path / "log"
    PairStore(path, symmetric=True).close()
    header = path.read_bytes()
    for size in range(len(header)):
        path.write_bytes(header[:size])
        store = PairStore(path, symmetric=True)
        put(store, [(1, 2)], [size])
        store = _reopen(store, path)
        assert known(store, [(1, 2)]) == [size]
        store.close()


def test_damage_at_any_byte_is_found_and_never_served(tmp_path, caplog):
    path = tmp_path / "log"
    store = PairStore(path, symmetric=True)
    truth = {}
    for first, scores in ((1, [1.0, 2.0]), (4, [3.0, 4.0]), (7, [5.0, NAN])):
        pairs = [(first, first + 1), (first, first + 2)]
        put(store, pairs, scores)
        truth |= dict(zip(pairs, scores, strict=True))
    store.close()
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        caplog.clear()
        if position < len(pair_log.MAGIC):
            with pytest.raises(UserError, match="not the pair store"):
                PairStore(path, symmetric=True)
            continue
        store = PairStore(path, symmetric=True)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        served = dict(zip(truth, known(store, list(truth)), strict=True))
        kept = {pair: score for pair, score in served.items() if score is not None}
        assert len(kept) == (0 if position < pair_log.HEADER.size else 4)
        np.testing.assert_array_equal(list(kept.values()), [truth[pair] for pair in kept])
        # What is written after the damage is found behind it.
        put(store, list(truth), list(truth.values()))
        store = _reopen(store, path)
        np.testing.assert_array_equal(known(store, list(truth)), list(truth.values()))
        store.close()


def test_the_id_of_a_lost_key_is_never_given_to_another_image(tmp_path):
    path = tmp_path / "log"
    store = PairStore(path, symmetric=True)
    put(store, [(1, 2)], [1.0])
    start = path.stat().st_size
    codes(store, [(3, 4)])
    put(store, [(3, 4)], [2.0])
    store.close()
    content = bytearray(path.read_bytes())
    content[start + pair_log.BATCH.size] ^= 1  # in the keys of images 3 and 4, whose pair is intact
    path.write_bytes(content)
    store = PairStore(path, symmetric=True)
    assert known(store, [(1, 2), (5, 6), (3, 4)]) == [1.0, None, None]
    put(store, [(5, 6)], [3.0])
    assert known(_reopen(store, path), [(1, 2), (5, 6), (3, 4)]) == [1.0, 3.0, None]


def test_a_store_in_use_is_refused_by_name(tmp_path):
    store = PairStore(tmp_path / "log", symmetric=True)
    with pytest.raises(UserError, match=r"log: another sweep uses"):
        PairStore(tmp_path / "log", symmetric=True)
    threading.Timer(0.2, store.close).start()
    again = PairStore(tmp_path / "log", symmetric=True, lock_wait_s=60)
    assert known(again, [(1, 2)]) == [None]


def test_a_file_of_other_settings_or_of_something_else_is_refused_and_untouched(tmp_path):
    path = tmp_path / "log"
    sift, aliked = (store_name({"matcher": name}) for name in ("sift-mnn", "aliked-mnn"))
    PairStore(path, symmetric=True, digest=sift).close()
    content = path.read_bytes()
    for symmetric, digest in ((True, aliked), (False, sift)):
        with pytest.raises(UserError, match="log: this is not the pair store of this matcher with these settings"):
            PairStore(path, symmetric=symmetric, digest=digest)
    assert path.read_bytes() == content
    path.write_text("somebody's notes")
    with pytest.raises(UserError, match="not the pair store"):
        PairStore(path, symmetric=True, digest=sift)
    assert path.read_text() == "somebody's notes"


def test_a_path_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/log: cannot open"):
        PairStore(tmp_path / "file" / "log", symmetric=True)


@pytest.mark.parametrize("written", [0, 1, 30])
def test_with_a_full_disk_the_store_goes_on_in_memory_and_warns_once(tmp_path, monkeypatch, caplog, written):
    path = tmp_path / "log"
    store = PairStore(path, symmetric=True)
    put(store, [(1, 2)], [1.0])
    write, left = os.write, [written]

    def full(file: int, data: memoryview) -> int:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        num_bytes = write(file, data[: left[0]])
        left[0] -= num_bytes
        return num_bytes

    monkeypatch.setattr(pair_log.os, "write", full)
    for number in range(3, 6):
        put(store, [(1, number)], [number])
    assert known(store, [(1, 2), (1, 3), (1, 4), (1, 5)]) == [1.0, 3.0, 4.0, 5.0]
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    monkeypatch.undo()
    caplog.clear()
    again = PairStore(path, symmetric=True)
    assert known(again, [(1, 2), (1, 3)]) == [1.0, None]
    assert not caplog.records


def test_bad_keys_and_scores_are_refused():
    store = PairStore(None, symmetric=True)
    for bad in ("abc", "zz" * 16, "ab" * 15):
        with pytest.raises(ValueError, match=r"hex"):
            store.register([bad])
    with pytest.raises(ValueError, match="scores of shape"):
        store.put(codes(store, [(1, 2), (3, 4)]), np.ones(1), "a")


def test_store_names_differ_with_every_setting():
    names = {store_name(s) for s in ({"px": 256}, {"px": 512}, {"px": 256, "matcher": "sift"}, {"px": "256"}, {})}
    assert len(names) == 5
