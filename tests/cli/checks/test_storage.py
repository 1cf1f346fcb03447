"""Doctor's look at the storage: found, told, and left as it is."""

from pathlib import Path

import pytest

from proxy.cli.checks import storage
from proxy.cli.checks.finding import Finding
from proxy.services import epoch_ms
from proxy.store import keys, sqlite
from tests.cli.checks.sites import bad, but, names, site, the
from tests.processes import served, written

NEWEST = sqlite.migrations()[-1][0]


def made(folder: Path) -> Path:
    path = folder / "sessions.db"
    sqlite.migrate(path)
    return path


def said(found: list[Finding]) -> str:
    return "\n".join(finding.said for finding in found)


@pytest.mark.anyio
async def test_a_sound_store_is_told_to_be_so_and_stays_as_it_was(tmp_path: Path) -> None:
    path = made(tmp_path)
    before = path.read_bytes()
    found = await storage.check(site(tmp_path))
    assert not bad(found)
    for words in ("can be written", "are free", f"schema {NEWEST}, no server has it", "the file is sound"):
        assert words in said(list(found))
    assert path.read_bytes() == before
    assert names(tmp_path) == ["sessions.db"]


@pytest.mark.anyio
async def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    found = await storage.check(site(folder))
    assert not bad(found)
    assert "`serve` makes it" in said(list(found))
    assert names(tmp_path) == []


@pytest.mark.anyio
@pytest.mark.parametrize("place", ["file/under/it", "file"])
async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no folder")
    told = the(await storage.check(site(tmp_path / place)))
    assert told.state == "failed"
    assert str(tmp_path / "file") in told.said
    assert "storage.url" in told.fix


@pytest.mark.anyio
async def test_a_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "sessions.db").mkdir()
    told = the(await storage.check(site(tmp_path)))
    assert "Is a directory" in told.said


@pytest.mark.anyio
async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "sessions.db").write_bytes(b"no database" * 500)
    told = the(await storage.check(site(tmp_path)))
    assert (told.state, told.said) == ("failed", "sessions.db is no SQLite database")
    assert "backup" in told.fix


@pytest.mark.anyio
@pytest.mark.parametrize("page", [2, 5, 20])
async def test_a_damaged_file_is_told_with_the_way_to_save_it(tmp_path: Path, page: int) -> None:
    path = made(tmp_path)
    whole = bytearray(path.read_bytes())
    whole[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    path.write_bytes(whole)
    told = the(await storage.check(site(tmp_path)))
    assert told.state == "failed"
    assert "damaged" in told.said
    assert ".recover" in told.fix


@pytest.mark.anyio
async def test_a_file_cut_short_is_told(tmp_path: Path) -> None:
    path = made(tmp_path)
    path.write_bytes(path.read_bytes()[: 30 * 4096])
    assert "damaged" in the(await storage.check(site(tmp_path))).said


def schema(path: Path, version: int) -> None:
    connection = storage.apsw.Connection(str(path))
    connection.pragma("user_version", version)
    connection.close()


@pytest.mark.anyio
async def test_a_newer_schema_is_told_with_both_versions(tmp_path: Path) -> None:
    schema(made(tmp_path), NEWEST + 3)
    told = the(await storage.check(site(tmp_path)))
    assert told.state == "failed"
    assert f"has schema {NEWEST + 3}, this version knows {NEWEST}" in told.said
    assert "upgrade" in told.fix


@pytest.mark.anyio
async def test_an_older_schema_is_told_and_not_brought_up(tmp_path: Path) -> None:
    path = made(tmp_path)
    schema(path, 1)
    told = the(await storage.check(site(tmp_path)))
    assert told.state == "warning"
    assert "session-proxy migrate" in told.fix
    connection = storage.apsw.Connection(str(path))
    assert connection.pragma("user_version") == 1
    connection.close()


@pytest.mark.anyio
async def test_another_programs_database_is_told(tmp_path: Path) -> None:
    connection = storage.apsw.Connection(str(tmp_path / "sessions.db"))
    connection.execute("CREATE TABLE songs (name)")
    connection.close()
    assert "tables of another program" in the(await storage.check(site(tmp_path))).said


@pytest.mark.anyio
async def test_a_disk_that_is_nearly_full_is_told(tmp_path: Path) -> None:
    told = the(await storage.check(but(site(tmp_path), room=1 << 60)))
    assert (told.state, "make room" in told.fix) == ("failed", True)
    free = storage.shutil.disk_usage(tmp_path).free
    told = the(await storage.check(but(site(tmp_path), room=free * 2)))
    assert told.state == "warning"


@pytest.mark.anyio
async def test_the_keys_mode_without_a_key_is_told(tmp_path: Path) -> None:
    one = site(tmp_path, auth={"mode": "keys"})
    for _ in range(2):  # without a store, then in one without keys
        told = the(await storage.check(one))
        assert (told.check, told.state) == ("keys", "warning")
        assert "session-proxy keys create" in told.fix
        made(tmp_path)
    db = sqlite.opened(one.config.storage.url, own=False)
    name = await keys.create(db, "acme", "user", b"sp-key", epoch_ms())
    assert not bad(await storage.check(one))
    await keys.revoke(db, name, epoch_ms())
    await db.close()
    assert the(await storage.check(one)).check == "keys"


@pytest.mark.anyio
async def test_a_servers_file_is_read_beside_it_and_its_wal_left_alone(tmp_path: Path) -> None:
    config = written(tmp_path)
    path, wal = tmp_path / "sessions.db", tmp_path / "sessions.db-wal"
    async with served(config) as serving:
        db = sqlite.opened(f"sqlite:///{path}", own=False)
        await keys.create(db, "acme", "user", b"sp-key", epoch_ms())
        before = (path.read_bytes(), wal.read_bytes())
        assert before[1]
        found = await storage.check(site(tmp_path, auth={"mode": "keys"}))
        assert not bad(found)
        assert "a running server has it" in said(list(found))
        assert "1 API key that can be used" in said(list(found))
        assert (path.read_bytes(), wal.read_bytes()) == before
        await serving.kill()
    assert not bad(await storage.check(site(tmp_path)))
    assert (path.read_bytes(), wal.read_bytes()) == before
    await db.close()


@pytest.mark.parametrize(("count", "shown"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (123_456, "123.5 kB"),
                                              (5_000_000_000_000_000, "5000 TB")])  # fmt: skip
def test_sizes_are_read_at_a_glance(count: int, shown: str) -> None:
    assert storage._size(count) == shown


def test_an_old_library_is_told() -> None:
    assert storage._library("3.51.2").state == "failed"
    assert storage._library("3.51.3").state == "ok"
