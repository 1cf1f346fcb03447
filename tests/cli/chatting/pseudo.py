"""session-proxy chat before a pseudo-terminal: keys go in, the screen's text comes out and is waited for."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from tests.processes import ROOT, WAIT_S, environment

CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")
PROMPT = "> "
LEADS = """import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "proxy", *sys.argv[1:]])"""
"""The terminal is its own, so that Ctrl-C typed there reaches it."""


class Terminal:
    """What somebody who sits there does and sees. `text`: all that was shown, without colours and cursor movements."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self.raw = b""
        self._seen = 0
        self._master = master
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    @property
    def text(self) -> str:
        return SEQUENCE.sub("", self.raw.decode(errors="replace"))

    def keys(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def say(self, line: str) -> None:
        """Types a line at the prompt, once it is there."""
        await self.sees(PROMPT)
        self.keys(line + "\r")

    async def sees(self, text: str) -> str:
        """Waits for a text behind the one that was waited for last; what stands between them. Fails after WAIT_S."""
        with anyio.move_on_after(WAIT_S):
            while (at := self.text.find(text, self._seen)) < 0:
                self._news.clear()
                await self._news.wait()
            between, self._seen = self.text[self._seen : at], at + len(text)
            return between
        raise AssertionError(f"{text!r} never came; there is:\n{self.text[self._seen :]}")

    async def ends(self) -> int:
        """Waits for the end of the chat; its exit code."""
        with anyio.fail_after(WAIT_S):
            return await self.process.wait()

    def resize(self, columns: int, lines: int) -> None:
        _size(self._master, columns, lines)
        self.process.send_signal(signal.SIGWINCH)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)

    def _read(self) -> None:
        try:
            self.raw += os.read(self._master, 65536)
        except OSError:  # nobody holds the other end any more
            asyncio.get_running_loop().remove_reader(self._master)
        self._news.set()


def _size(fd: int, columns: int, lines: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@asynccontextmanager
async def chatting(url: str, home: Path, *args: str, columns: int = 80, **env: str) -> AsyncGenerator[Terminal]:
    """A chat with the proxy at `url`, killed at the end of the block if it still runs; inputs are kept in `home`."""
    master, slave = pty.openpty()
    _size(slave, columns, 24)
    seen = environment(PYTHONPATH=str(ROOT), TERM="xterm-256color", LC_ALL="C.UTF-8", XDG_STATE_HOME=str(home), **env)
    seen.pop("NO_COLOR", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LEADS, "chat", "--url", url, *args,
        stdin=slave, stdout=slave, stderr=slave, cwd=home, env=seen | env, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    terminal = Terminal(process, master)
    try:
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        terminal.close()
