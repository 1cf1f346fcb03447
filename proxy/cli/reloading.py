"""Reading the configuration again while the server runs: on SIGHUP and, where that is asked for, when its file changed.

One reading at a time, and the last state wins. A file that cannot be used changes nothing; the log says why.
"""

import asyncio
import dataclasses
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from proxy.cli import settings
from proxy.config import Config, load, reloaded
from proxy.edge.application import Edge
from proxy.errors import BadConfig
from proxy.telemetry.log import defect

POLL_S = 1.0

Stamp = tuple[int, ...]
"""What tells one state of a file from another, also behind a symbolic link that is made to lead elsewhere."""


class Source:
    """Where the configuration comes from: `file`, else ./config.yaml once there is one; `given` is what the command
    line says of the server."""

    def __init__(self, file: Path | None, given: Mapping[str, Any]) -> None:
        self._file = file
        self._given = given
        self.seen: Stamp | None = None
        """The file as it was when it was last read."""

    def read(self) -> Config:
        """What it says now. Raises BadConfig."""
        return self._read(settings.read)

    def again(self) -> Config:
        """The same for a server that runs. An empty file is refused: one that is written over looks like that for a
        moment, and it would mean the defaults, another model server."""
        return self._read(_lasting)

    def _read(self, text_of: Callable[[Path], str]) -> Config:
        self.seen = self.stamp()
        file = self._file or (settings.DEFAULT if settings.DEFAULT.exists() else None)
        config = load("") if file is None else settings.parsed(text_of(file), file)
        config = dataclasses.replace(config, server=dataclasses.replace(config.server, **self._given))
        if not 0 <= config.server.port <= 65535:
            raise BadConfig(f"server.port must be from 0 to 65535, not {config.server.port}")
        config.check()
        self._file = file  # from now on this one: the defaults do not come back when it goes
        return config

    def stamp(self) -> Stamp | None:
        """The state of the file; None while there is none."""
        try:
            found = (self._file or settings.DEFAULT).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def _lasting(file: Path) -> str:
    if file.exists() and not file.is_file():
        raise BadConfig(
            f"{file}: it is a pipe or a directory; what is read again must be a file"
        )  # a pipe may never end
    text = settings.read(file)
    if all(line.lstrip()[:1] in ("", "#") for line in text.splitlines()):
        raise BadConfig(f"{file}: nothing stands in it; write {{}} for the defaults")
    return text


class Reloading:
    """Has the application take what the source says, whenever it is asked to."""

    def __init__(self, edge: Edge, source: Source) -> None:
        self._edge = edge
        self._source = source
        self._log = edge.svc.log
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Reads it soon; once for all who asked until then."""
        self._asked.set()

    @asynccontextmanager
    async def running(self, watch_s: float | None = None) -> AsyncGenerator[None]:
        """Does so while the block runs; with `watch_s` it also looks at the file so often."""
        works = [self._reload]
        if watch_s is not None:
            works.append(partial(self._watch, watch_s))
        tasks = [asyncio.ensure_future(self._again_and_again(work)) for work in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _again_and_again(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except BadConfig as refused:
                self._log("error", "config_refused", reason=str(refused))
            except Exception as exc:  # noqa: BLE001 - a worker's loop: a defect of ours, told without its texts
                defect(self._log, exc)

    async def _reload(self) -> None:
        """Once, when it is asked for."""
        await self._asked.wait()
        self._asked.clear()
        found = await asyncio.to_thread(self._source.again)  # 10 ms and more
        reload = reloaded(self._edge.svc.config, found)
        if reload.changed:
            self._edge.reload(reload.config)
        self._log("notice", "config_reloaded", changed=reload.changed, ignored=reload.ignored)

    async def _watch(self, every_s: float) -> None:
        """A change counts once it has stayed for a while: others may be writing still."""
        last = self._source.seen
        while True:
            await asyncio.sleep(every_s)
            now = await asyncio.to_thread(self._source.stamp)
            if now == last and now != self._source.seen:
                self.ask()
            last = now


class Hangups:
    """SIGHUP from the first moment of a process on: unheard it would end it. It asks for a reload, but where the
    terminal that the process was started from is gone: that has ended it ever since, and would leave it behind unseen.
    """

    def __init__(self) -> None:
        self._act: Callable[[], object] | None = None
        self._early = False
        self._terminal = False

    @contextmanager
    def heard(self) -> Generator[None]:
        """Until the process ends, which follows on the block, or until the block fails."""
        before = signal.signal(signal.SIGHUP, lambda *_: self._hear())
        self._terminal = _has_terminal() and before != signal.SIG_IGN  # nohup: it shall go on without one
        try:
            yield
        except BaseException:
            signal.signal(signal.SIGHUP, before)
            raise
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    @contextmanager
    def answered(self, reload: Callable[[], None], stop: Callable[[], None]) -> Generator[None]:
        """Calls one of the two in the event loop at each, and for those that came before."""
        loop = asyncio.get_running_loop()

        def act() -> None:
            (stop if self._terminal and not _has_terminal() else reload)()

        self._act = lambda: loop.call_soon_threadsafe(act)
        if self._early:
            self._hear()
        try:
            yield
        finally:
            self._act = None

    def _hear(self) -> None:
        if self._act is None:
            self._early = True
        else:
            self._act()


def _has_terminal() -> bool:
    try:
        os.close(os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
