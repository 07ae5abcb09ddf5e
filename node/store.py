"""A device's durable facts in one SQLite file: a commit is whole or absent, and what was acknowledged stays.

With the write-ahead log and `synchronous=FULL`, a commit returns once its log frames are synced, and a crash at any
byte of the log brings back exactly the commits before it (sqlite.org/wal.html; the tests cut the log everywhere).
On macOS only F_FULLFSYNC reaches the disk itself, hence `fullfsync`.

The ledger in here decides what a device may still say to its cohorts, so a damaged file is never repaired,
emptied or guessed at. It is checked before it is opened for writing: SQLite's own check of the structure, and a
checksum on each fact when it is read, since SQLite has none on contents. What no check can see is a file that
was replaced by an older copy of itself, or a log that lost its end: never restore a state file from a backup.
"""

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from crypto.hashing import digest
from gossip.errors import GossamerError
from gossip.events import Put, Record

SCHEMA_VERSION = 1
APPLICATION_ID = 0x476F7373  # "Goss": tells our files from other programs'
LOG_KEPT_BYTES = 1 << 24  # what a log that grew beyond it is cut back to

_SCHEMA = """
    CREATE TABLE facts (
        tbl TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (tbl, key)
    ) WITHOUT ROWID
"""
_PUT = "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)"
_DROP = "DELETE FROM facts WHERE tbl = ? AND key = ?"
_READ = "SELECT key, value, checksum FROM facts WHERE tbl = ? ORDER BY key"


class StoreCorrupt(GossamerError):
    """The state file is damaged or not ours; nothing was changed. Move it away, as the line says, or put it back."""


class StoreFull(GossamerError):
    """The disk took no more; nothing of this commit is kept, and all that was there still is. Free some space."""


class StoreFailed(GossamerError):
    """The disk failed otherwise, and whether this commit is durable shows only on reopening: the daemon has to stop."""


class SqliteStore:
    """`node.ports.Store` on a file; callable from any thread, one at a time."""

    def __init__(self, path: Path) -> None:
        """Open the state file, or make an empty one of 0600. Raises StoreCorrupt, StoreFull, StoreFailed."""
        self.path = path
        self._lock = threading.Lock()
        if os.path.lexists(path):
            self._refuse_corrupt()
        else:
            self._create()
        with self._failures(), contextlib.ExitStack() as undo:
            self._connection = undo.enter_context(contextlib.closing(_connect(path)))
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA fullfsync = ON")
            self._connection.execute(f"PRAGMA journal_size_limit = {LOG_KEPT_BYTES}")
            undo.pop_all()

    def commit(self, records: Sequence[Record]) -> None:
        """Make all of the records durable, in their order, or none. Raises StoreFull, StoreFailed."""
        with self._lock, self._failures():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for record in records:
                    if isinstance(record, Put):
                        checksum = _checksum(record.table, record.key, record.value)
                        self._connection.execute(_PUT, (record.table, record.key, record.value, checksum))
                    else:
                        self._connection.execute(_DROP, (record.table, record.key))
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def read(self, table: str) -> list[tuple[bytes, bytes]]:
        """All (key, value) of a table, keys ascending. Raises StoreCorrupt where a checksum does not hold."""
        with self._lock, self._failures():
            rows = self._connection.execute(_READ, (table,)).fetchall()
        for key, value, checksum in rows:
            if checksum != _checksum(table, key, value):
                raise self._corrupt(f"the fact {key.hex()} in {table!r} has changed by itself")
        return [(key, value) for key, value, _ in rows]

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _create(self) -> None:
        """Make the file under another name first, so that no crash leaves an unfinished one under its own."""
        for left in (self._beside("-wal"), self._beside("-shm"), self._beside("-journal")):
            if left.exists():
                # SQLite would replay the log of the lost file into the new one.
                raise self._corrupt(f"it is gone, but {left.name} is still there")
        draft = self._beside(".new")
        try:
            self._beside(".new-journal").unlink(missing_ok=True)
            draft.unlink(missing_ok=True)
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            with self._failures(), contextlib.closing(_connect(draft)) as connection:
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            draft.rename(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            raise (StoreFull if full else StoreFailed)(
                f"{self.path}: cannot be made: {error.strerror}"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()

    def _refuse_corrupt(self) -> None:
        """Check a file without writing to it; the shared-memory index beside its log is no part of the state."""
        log = self._beside("-wal")
        logged = log.exists() and log.stat().st_size > 0
        # A read-only connection makes a log where there is none, but for a file that it takes for immutable.
        options = "mode=ro" if logged else "mode=ro&immutable=1"
        try:
            with contextlib.closing(_connect(self.path, options)) as connection:
                (application,) = connection.execute("PRAGMA application_id").fetchone()
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if application != APPLICATION_ID or not version:
                    raise self._corrupt("it is not a Gossamer state file")
                if version > SCHEMA_VERSION:
                    raise StoreCorrupt(
                        f"{self.path}: written by a newer Gossamer (schema {version}, this one knows "
                        f"{SCHEMA_VERSION}); nothing was changed; upgrade Gossamer"
                    )
                (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
                if not logged and self.path.stat().st_size % page_bytes:
                    raise self._corrupt("its last page is cut short")  # which SQLite would fill up with zeros
                (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    raise self._corrupt(" ".join(verdict.split()))  # it comes in several lines
                connection.execute("SELECT tbl, key, value, checksum FROM facts LIMIT 0")
        except sqlite3.Error as error:
            raise self._corrupt(str(error)) from error

    def _corrupt(self, problem: str) -> StoreCorrupt:
        return StoreCorrupt(
            f"{self.path}: cannot be used: {problem}; nothing was changed. To begin with an empty state, move "
            f"{self.path.name} and all {self.path.name}-* out of {self.path.parent}"
        )

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            # A limit on file sizes, or a quota, shows as a failed write. The frame that commits is written last.
            if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}:
                raise StoreFull(
                    f"{self.path}: the disk takes no more ({error}); nothing of this change is kept; free some space"
                ) from error
            if code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                raise self._corrupt(str(error)) from error
            raise StoreFailed(f"{self.path}: {error}") from error


def _connect(path: Path, options: str = "mode=rw") -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}", uri=True, isolation_level=None, check_same_thread=False
    )


def _checksum(table: str, key: bytes, value: bytes) -> bytes:
    return digest("fact", table.encode(), key, value)


def sync_folder(path: Path) -> None:
    """Make the folder's own entries durable: names that came, went or changed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
