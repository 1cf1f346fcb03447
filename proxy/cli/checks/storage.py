"""The storage: the folder, the file, its schema, its soundness, and the room that it has."""

import errno
import os
import shutil
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

import apsw

from proxy.cli.checks.finding import Finding, Site, counted, parted
from proxy.cli.checks.running import aside
from proxy.config import Config
from proxy.errors import Unavailable
from proxy.store import inspection, sqlite
from proxy.store.inspection import Facts

LOOK_S = 20.0
"""How long SQLite's check of a file may take."""
LONG_LOG = 256 << 20
"""Bytes of a WAL that should have been moved into the file long ago: a server does so from 64 MB on."""
SOUND = (3, 51, 3)
"""The first SQLite without a bug that damaged WAL files with several connections."""

NAME = "storage"


async def check(site: Site) -> Sequence[Finding]:
    """Everything about the store that can be seen without changing it."""
    path = sqlite.file_of(site.config.storage.url).absolute()
    found = [_library(apsw.sqlite_lib_version()), *await aside(lambda: list(_folder(path, site.room)))]
    if await aside(path.is_file):
        found += await _file(path, site.config)
    elif not any(one.state == "failed" for one in found):
        found.append(Finding(NAME, "ok", f"there is no {path.name} yet; `serve` makes it"))
        found += _keys(site.config, 0)
    return found


def _library(version: str) -> Finding:
    have = tuple(map(int, version.split(".")))
    if have < SOUND:
        return Finding(NAME, "failed", f"SQLite {version} can damage its files", "pip install --upgrade apsw")
    return Finding(NAME, "ok", f"SQLite {version}")


def _folder(path: Path, room: int) -> Generator[Finding]:
    """Whether files can be made and grow where the store is, or will be."""
    folder = next(one for one in path.parents if one.exists())
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=folder):
            pass
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as exc:
        at = path if isinstance(exc, IsADirectoryError) else folder
        fix = f"let this user write to {folder} and the files in it, or set storage.url to another place"
        yield Finding(NAME, "failed", f"{path} cannot be written: {at}: {exc.strerror}", fix)
        return
    yield Finding(NAME, "ok", f"{folder} can be written")
    free = shutil.disk_usage(folder).free
    if free < room:
        fix = "make room, or set storage.url to another disk; at 0 every turn fails with 503"
        yield Finding(NAME, "failed" if free < room // 16 else "warning", f"{_size(free)} of its disk are free", fix)
    else:
        yield Finding(NAME, "ok", f"{_size(free)} of its disk are free")


async def _file(path: Path, config: Config) -> list[Finding]:
    otherwise = "look whether another program holds it, and whether this user may read it"
    try:
        facts = await aside(lambda: inspection.facts(path))
        found = [_schema(facts, path), *_log(path), await _soundness(path)]
    except Unavailable as exc:
        return [Finding(NAME, "failed", *parted(exc.message, otherwise))]
    return found + _keys(config, facts.keys)


def _schema(facts: Facts, path: Path) -> Finding:
    known = sqlite.migrations()[-1][0]
    size = _size(path.stat().st_size)
    if facts.schema > known:
        said = f"{path.name} has schema {facts.schema}, this version knows {known}"
        return Finding(NAME, "failed", said, "upgrade session-proxy, or put back the copy made before the upgrade")
    if facts.foreign:
        said = f"{path.name} holds tables of another program"
        return Finding(NAME, "failed", said, "set storage.url to a file of its own")
    if facts.schema == known or not facts.schema:
        held = ", a running server has it" if inspection.held(path) else ", no server has it"
        return Finding(NAME, "ok", f"{path.name}: {size}, schema {facts.schema or 'none yet'}{held}")
    said = f"{path.name} has schema {facts.schema}, this version wants {known}"
    if inspection.held(path):
        return Finding(NAME, "warning", f"{said}; an older server has it", "restart the server: its start brings it up")
    fix = "copy the file, then `session-proxy migrate`; the next `serve` does it as well"
    return Finding(NAME, "warning", said, fix)


def _log(path: Path) -> Generator[Finding]:
    size = inspection.log_size(path)
    if size >= LONG_LOG:
        fix = "end what reads it for long (an export, an open sqlite3), then restart the server"
        yield Finding(NAME, "warning", f"the WAL has grown to {_size(size)}", fix)
    elif size:
        yield Finding(NAME, "ok", f"the WAL has {_size(size)}")


async def _soundness(path: Path) -> Finding:
    wrong = await aside(lambda: inspection.damage(path, LOOK_S))
    if wrong is None:
        fix = f"with the server stopped: sqlite3 {path} 'PRAGMA integrity_check'"
        return Finding(
            NAME, "warning", f"the file is too large to be checked in {LOOK_S:g} s; nothing found so far", fix
        )
    if wrong:
        return Finding(NAME, "failed", f"the file is damaged: {'; '.join(wrong)}", inspection.rescue(path))
    return Finding(NAME, "ok", "the file is sound (integrity_check)")


def _keys(config: Config, keys: int) -> list[Finding]:
    if config.auth.mode != "keys":
        return []
    if not keys:
        said = "auth.mode is keys, and there is no key that works: every request gets 401"
        return [Finding("keys", "warning", said, "session-proxy keys create --tenant NAME")]
    return [Finding("keys", "ok", f"{counted(keys, 'API key')} that can be used")]


def _size(count: int) -> str:
    units = ["bytes", "kB", "MB", "GB", "TB"]
    power = min(len(units) - 1, (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.4g} {units[power]}"
