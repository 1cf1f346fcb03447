"""A look at a store's file: what it says, and that nothing of it changes."""

import fcntl
from pathlib import Path

import apsw
import pytest

from proxy.errors import Unavailable
from proxy.store import inspection, sqlite
from tests.cli.checks.sites import names

NEWEST = sqlite.migrations()[-1][0]


def made(folder: Path) -> Path:
    path = folder / "sessions.db"
    sqlite.migrate(path)
    return path


def test_a_new_store_holds_nothing(tmp_path: Path) -> None:
    path = made(tmp_path)
    assert inspection.facts(path) == inspection.Facts(NEWEST, foreign=False, keys=0, newest=None)
    assert inspection.damage(path, 10) == []
    assert names(tmp_path) == ["sessions.db"]


def test_what_only_the_wal_has_is_seen_and_left_there(tmp_path: Path) -> None:
    path = made(tmp_path)
    writer = apsw.Connection(str(path))
    writer.wal_autocheckpoint(0)
    writer.execute(
        """INSERT INTO keys (id, tenant, role, hash, created_at)
           VALUES ('a', 1, 'user', x'01', 1), ('b', 1, 'user', x'02', 1)"""
    )
    writer.execute("UPDATE keys SET revoked_at = 2 WHERE id = 'b'")
    wal = tmp_path / "sessions.db-wal"
    before = (path.read_bytes(), wal.read_bytes())
    assert inspection.log_size(path) == len(before[1]) > 0
    assert inspection.facts(path).keys == 1
    assert inspection.damage(path, 10) == []
    assert (path.read_bytes(), wal.read_bytes()) == before
    writer.close()


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        inspection.facts(tmp_path / "sessions.db")
    assert not inspection.held(tmp_path / "sessions.db")
    assert inspection.log_size(tmp_path / "sessions.db") == 0
    assert names(tmp_path) == []


def test_a_store_is_held_while_somebody_owns_it(tmp_path: Path) -> None:
    path = made(tmp_path)
    assert not inspection.held(path)
    with (tmp_path / "sessions.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert inspection.held(path)
    assert not inspection.held(path)


def test_a_check_without_time_finds_nothing_and_says_so(tmp_path: Path) -> None:
    path = made(tmp_path)
    writer = apsw.Connection(str(path))
    writer.execute(
        """WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
           INSERT INTO tenants (name, created_at) SELECT 'tenant ' || i, i FROM n"""
    )
    writer.close()
    assert inspection.damage(path, -1) is None
    assert inspection.damage(path, 60) == []


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_what_seems_wrong_while_a_server_starts_is_looked_at_again(tmp_path: Path, fails: bool, stops: bool) -> None:
    path = made(tmp_path)
    seen: list[int] = []
    writers: list[apsw.Connection] = []

    def look(connection: apsw.Connection) -> int:
        ((keys,),) = connection.execute("SELECT count(*) FROM keys")
        seen.append(keys)
        if len(seen) == 1:
            writers.append(writing(path))
            if stops:
                writers[0].close()
            if fails:
                raise apsw.CorruptError
        return keys

    assert inspection.looked(path, look, lambda keys: keys > 0) == 1
    assert seen == [0, 1]
    writers[0].close()


def writing(path: Path) -> apsw.Connection:
    writer = apsw.Connection(str(path))
    writer.execute("INSERT INTO keys (id, tenant, role, hash, created_at) VALUES ('a', 1, 'user', x'01', 1)")
    return writer


def test_what_is_wrong_in_a_file_that_nobody_touches_is_looked_at_once(tmp_path: Path) -> None:
    path = made(tmp_path)
    seen: list[str] = []
    assert inspection.looked(path, lambda _: seen.append("look"), lambda _: False) is None
    assert seen == ["look"]
    assert names(tmp_path) == ["sessions.db"]


@pytest.mark.parametrize("page", range(2, 60, 4))
def test_a_page_of_rubbish_is_damage(tmp_path: Path, page: int) -> None:
    path = made(tmp_path)
    whole = bytearray(path.read_bytes())
    whole[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    path.write_bytes(whole)
    try:
        assert inspection.damage(path, 10)
    except Unavailable as exc:
        assert "damaged" in exc.message
