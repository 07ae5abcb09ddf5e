"""What was acknowledged stays, whole; and a file that cannot be trusted is refused as it lies there."""

import shutil
import sqlite3
import stat
import threading

import pytest

from gossip.events import Drop, Put
from node.store import APPLICATION_ID, SqliteStore, StoreCorrupt, StoreFailed, StoreFull


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.db"


@pytest.fixture
def store(path):
    store = SqliteStore(path)
    yield store
    store.close()


def read_again(path, table="facts"):
    store = SqliteStore(path)
    try:
        return store.read(table)
    finally:
        store.close()


def state_of(folder):
    """The files that hold the state; the -shm index beside a log is SQLite's own scratch."""
    return {
        path.name: (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.iterdir()
        if not path.name.endswith("-shm")
    }


def refused(path, match, error=StoreCorrupt):
    before = state_of(path.parent)
    with pytest.raises(error, match=match) as caught:
        SqliteStore(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert "nothing was changed" in line
    assert state_of(path.parent) == before


def test_facts_come_back_by_table_in_the_order_of_their_keys(store, path):
    store.commit(
        [Put("b", b"\xff", b"3"), Put("b", b"", b"1"), Put("a", b"x", b"other"), Put("b", b"\x80", b"2")]
    )
    assert store.read("b") == [(b"", b"1"), (b"\x80", b"2"), (b"\xff", b"3")]
    assert store.read("a") == [(b"x", b"other")]
    assert store.read("c") == []
    store.close()
    assert read_again(path, "b") == [(b"", b"1"), (b"\x80", b"2"), (b"\xff", b"3")]


def test_the_records_of_a_commit_count_in_their_order(store):
    store.commit([Put("t", b"k", b"old"), Drop("t", b"k"), Put("t", b"l", b"1"), Put("t", b"l", b"2")])
    assert store.read("t") == [(b"l", b"2")]
    store.commit([Drop("t", b"l"), Drop("t", b"never there")])
    assert store.read("t") == []


def test_a_commit_waits_for_the_disk(store):
    for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("fullfsync", 1)):
        assert store._connection.execute(f"PRAGMA {pragma}").fetchone() == (value,)


def test_only_we_can_read_the_state(store, path):
    store.commit([Put("t", b"k", b"v")])
    files = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert files == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


def test_threads_take_turns(store):
    def work(name):
        for number in range(20):
            store.commit([Put(name, bytes([number]), b"v"), Put("last", name.encode(), bytes([number]))])

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(store.read(name)) for name in ("a", "b", "c")] == [20, 20, 20]
    assert store.read("last") == [(name, b"\x13") for name in (b"a", b"b", b"c")]


def test_a_commit_that_our_own_bug_breaks_leaves_nothing_behind(store):
    with pytest.raises(AttributeError):
        store.commit([Put("t", b"k", b"v"), "no record"])
    assert store.read("t") == []
    store.commit([Put("t", b"k", b"v")])


def test_a_power_cut_at_any_byte_of_the_log_leaves_exactly_the_commits_before_it(store, path, tmp_path):
    log = path.with_name("state.db-wal")
    acknowledged_at, histories = [], [[]]
    for number in range(5):
        key = bytes([number])
        bodies = [Put("facts", key, key * 3000), Put("facts", b"a" + key, key * 5000)]
        marks = [Put("facts", b"last%d" % number, b""), Drop("facts", b"last%d" % (number - 1))]
        store.commit(bodies + marks)
        acknowledged_at.append(log.stat().st_size)
        histories.append(store.read("facts"))
    whole = log.read_bytes()
    head, frame = 32, 24 + 4096
    ends = range(head, len(whole) + 1, frame)
    assert set(acknowledged_at) <= set(ends)
    for cut in sorted({0, 1, *ends, *(end - 1 for end in ends), *(end - 2000 for end in ends[1:])}):
        folder = tmp_path / str(cut)
        folder.mkdir()
        shutil.copy(path, folder)
        (folder / "state.db-wal").write_bytes(whole[:cut])
        assert read_again(folder / "state.db") == histories[sum(size <= cut for size in acknowledged_at)]


def test_a_full_disk_is_said_and_the_state_before_it_stays(store, path):
    store.commit([Put("facts", b"old", b"kept")])
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreFull, match=f"{path}: the disk takes no more .*nothing of this change is kept"):
        store.commit(
            [Put("facts", b"new", b"v"), Put("facts", b"old", b"lost"), Put("facts", b"big", bytes(1 << 20))]
        )
    assert store.read("facts") == [(b"old", b"kept")]
    store.commit([Drop("facts", b"nothing")])
    store.close()
    assert read_again(path) == [(b"old", b"kept")]


def test_a_disk_that_fails_otherwise_stops_the_daemon(store, path):
    with sqlite3.connect(path, isolation_level=None) as other:
        store._connection.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreFailed, match="locked"):
            store.commit([Put("t", b"k", b"v")])
        other.execute("ROLLBACK")
    other.close()
    assert store.read("t") == []


def test_a_file_that_cannot_be_made_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailed, match="cannot be made: Not a directory"):
        SqliteStore(tmp_path / "file" / "state.db")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_crash_while_the_file_was_made_does_not_matter(path):
    (path.parent / "state.db.new").write_bytes(b"half")
    (path.parent / "state.db.new-journal").write_bytes(b"of it")
    assert read_again(path) == []
    assert [each.name for each in path.parent.iterdir()] == ["state.db"]


@pytest.fixture
def filled(path):
    store = SqliteStore(path)
    store.commit([Put("facts", number.to_bytes(2), bytes([number]) * 3000) for number in range(40)])
    store.close()
    assert [each.name for each in path.parent.iterdir()] == ["state.db"]
    return path


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: b"", "not a Gossamer state file"),
        (lambda data: b"hello " * 1000, "file is not a database"),
        (lambda data: b"\0" * len(data), "file is not a database"),
        (lambda data: data[:50], "file is not a database|not a Gossamer"),
        (lambda data: data[: len(data) // 2], "malformed"),
        (lambda data: data[:-4096], "malformed"),
        (lambda data: data[:-1], "its last page is cut short"),
        (lambda data: data[:4096] + b"\xaa" * 4096 + data[8192:], "malformed|[Tt]ree|page"),
        (lambda data: data[:4096] + bytes(len(data) - 4096), "malformed|[Tt]ree|page"),
    ],
    ids=["empty", "text", "zeros", "stub", "half", "page short", "byte short", "page of junk", "header only"],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(filled, damage, problem):
    filled.write_bytes(damage(filled.read_bytes()))
    refused(filled, problem)


@pytest.mark.parametrize("offset", [0, 1500, 2999])
def test_a_bit_that_flips_within_a_fact_is_seen_when_it_is_read(filled, offset):
    data = bytearray(filled.read_bytes())
    at = data.index(bytes([17]) * 1000) + offset // 8
    data[at] ^= 1
    filled.write_bytes(data)
    before = state_of(filled.parent)
    with pytest.raises(
        StoreCorrupt, match="the fact 0011 in 'facts' has changed by itself; nothing was changed"
    ):
        read_again(filled)
    assert state_of(filled.parent) == before


def test_a_fact_that_moves_to_another_key_or_table_is_seen(filled):
    with sqlite3.connect(filled) as connection:
        connection.execute("UPDATE facts SET key = x'ffff' WHERE key = x'0003'")
        connection.execute("UPDATE facts SET tbl = 'moved' WHERE key = x'0004'")
    connection.close()
    for table, key in (("facts", "ffff"), ("moved", "0004")):
        with pytest.raises(StoreCorrupt, match=f"the fact {key} in '{table}'"):
            read_again(filled, table)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_another_programs_file_is_refused(path, journal):
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("CREATE TABLE facts (tbl, key, value, checksum)")
    connection.close()
    refused(path, "not a Gossamer state file.*move state.db and all state.db-")


def test_a_file_of_ours_without_our_table_is_refused(path):
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    refused(path, "no such table")


def test_a_newer_file_is_refused_and_nothing_is_to_be_moved_away(filled):
    with sqlite3.connect(filled) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    refused(filled, "written by a newer Gossamer .schema 2, this one knows 1.*upgrade Gossamer")


def test_damage_under_a_log_that_a_crash_left_is_refused_too(store, path, tmp_path):
    store.commit([Put("facts", bytes([number]), bytes(3000)) for number in range(40)])
    store._connection.execute("PRAGMA wal_checkpoint(FULL)")
    store.commit([Put("facts", b"new", b"v")])
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name in ("state.db", "state.db-wal"):
        shutil.copy(path.with_name(name), crashed)
    data = (crashed / "state.db").read_bytes()
    (crashed / "state.db").write_bytes(data[:8192] + b"\xaa" * 8192 + data[16384:])
    refused(crashed / "state.db", "malformed|[Tt]ree|page")


def test_the_log_of_a_lost_file_is_not_replayed_into_a_new_one(store, path, tmp_path):
    store.commit([Put("facts", b"k", b"v")])
    lost = tmp_path / "lost"
    lost.mkdir()
    shutil.copy(path.with_name("state.db-wal"), lost)
    refused(lost / "state.db", "it is gone, but state.db-wal is still there")
