"""Renders system templates in child processes with hard limits, and keeps what was rendered.

A template may take 0.5 s of CPU and 64 MB of memory, and print 256 KB; the rules are in worker.py. Each process answers
one request after the other. An exchange with it runs to its end also when its caller is cancelled: the next caller
would else read the answer that was left in the pipe.

Intentional: `subprocess` and the loop's readers, not asyncio's own processes, which need a watcher that differs between
Python versions, between loops, and outside the main thread. What can block, to start and to reap, runs in a thread.
"""

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import msgspec

from proxy.errors import BadRequest, Unavailable
from proxy.templates.fair import Fair

SOURCE = 64 << 10
"""Bytes of a template."""
VARIABLES = 16 << 20
"""Bytes of JSON: as values they take about four times that, which is what a template may take at all."""
KEPT = 1000
KEPT_BYTES = 8 << 20
HASHED = 1 << 20
"""Renders of more variables than this are not kept: to hash them would hold up the event loop."""
ANSWER = 4 << 20
"""Bytes of an answer: its text and names in JSON, where a character can take six."""

PATIENCE_S = 5.0
"""How long a request waits for those before it, and how long its answer may then take on the clock: 0.5 s of CPU, on a
crowded machine."""
START_S = 20.0
CLOSE_S = 1.0
REAP_S = 5.0

WORKER = Path(__file__).parent / "worker.py"
OPTIONS = ("-s", "-P")
"""With the empty environment the same as `-I`, which would ignore the hash seed: the order of a set of strings, as of
`a.keys() - b`, must not differ between two processes, since the model's prompt cache wants the same bytes."""
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
NEEDED = ("LD_LIBRARY_PATH",)
"""What Python may not start without."""

EXIT_MEMORY = 3
"""worker.EXIT_MEMORY: the process had not the memory to answer."""


Who = tuple[int, str]
"""A tenant, and what it asks for: a session's name, or "" for a template that is only checked."""


class Rendered(msgspec.Struct, frozen=True, gc=False):
    """A rendered template, and the top-level variables that it reads. `problem`: why there is none, and its line; only
    kept ones have it."""

    text: str
    names: frozenset[str]
    problem: str = ""
    line: int = 0


class _Answer(msgspec.Struct, frozen=True):
    """worker.Answer, and with `failed`, an error code, what is not the template's fault."""

    text: str = ""
    names: frozenset[str] = frozenset()
    problem: str = ""
    line: int = 0
    last: bool = False
    failed: str = ""


LATE = _Answer(problem="the renderer did not answer in time; try again", failed="template_timeout")
BUSY = _Answer(problem="others are being rendered; try again", failed="template_timeout")
GONE = _Answer(problem="the renderer ended or did not start; try again", failed="template_unavailable")
CLOSED = _Answer(problem="the server is stopping; try again", failed="template_unavailable")

VERDICTS = {
    -signal.SIGPROF: _Answer(problem="took more than 0.5 s of CPU; loop over less"),
    EXIT_MEMORY: _Answer(problem="took more than 64 MB of memory; build smaller values"),
}
"""What the end of a process tells about its template."""
CRASHES = dict.fromkeys(
    (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT),
    _Answer(problem="nested too deeply, or took more than 64 MB of memory; build smaller values"),
)
"""The same when it happens twice: the stack of C is full."""


class Renderer:
    """Up to `workers` processes, each started when it is first needed. For one event loop; close it with `aclose`."""

    def __init__(self, workers: int = 1, patience_s: float = PATIENCE_S) -> None:
        self._workers = [_Worker(patience_s) for _ in range(workers)]
        self._patience_s = patience_s
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        for worker in self._workers:
            self._idle.put_nowait(worker)
        self._exchanges: set[asyncio.Future[_Answer]] = set()
        self._fair = Fair()
        self._kept = Kept()
        self._closed = False

    async def render(
        self, source: str, variables: bytes, where: str = "system_template", who: Who = (0, "")
    ) -> Rendered:
        """`variables`: a JSON object. `where` names the template in errors, as BadRequest.param too. `who`: the tenant
        and the session that ask, which take turns with others."""
        if len(variables) > VARIABLES:
            raise _refused(where, f"its variables take {len(variables):,} bytes, the limit is {VARIABLES:,}; pass less")
        return await self._rendered(source, variables, where, who)

    async def check(self, source: str, where: str = "system_template", who: Who = (0, "")) -> frozenset[str]:
        """Compiles only: the top-level variables that the template reads. Raises as `render` does."""
        return (await self._rendered(source, None, where, who)).names

    async def aclose(self) -> None:
        """Ends the processes. Requests under way have a second; later ones are refused."""
        self._closed = True
        if self._exchanges:
            await asyncio.wait(self._exchanges, timeout=CLOSE_S)
        if self._exchanges:
            for worker in self._workers:
                worker.stop()
            await asyncio.wait(self._exchanges)
        for worker in self._workers:
            await worker.close()

    async def _rendered(self, source: str, variables: bytes | None, where: str, who: Who) -> Rendered:
        given = _encoded(source, where)
        key = _key(given, variables)
        kept = self._kept.get(key)
        if kept is not None and kept.problem:
            raise _refused(where, kept.problem, kept.line)
        if kept is not None:
            return kept
        header = msgspec.json.encode({"source": source, "check": variables is None})
        answer = await self._ask(header + b"\n" + (variables or b""), who)
        if answer.failed:
            raise Unavailable(f"{where}: {answer.problem}", code=answer.failed, headers={"Retry-After": "1"})
        rendered = Rendered(answer.text, answer.names, answer.problem, answer.line)
        if answer not in CRASHES.values():  # a signal may have come from elsewhere
            self._kept.put(key, rendered)  # what was refused too: it costs a process where it took too much
        if rendered.problem:
            raise _refused(where, rendered.problem, rendered.line)
        return rendered

    async def _ask(self, frame: bytes, who: Who) -> _Answer:
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._patience_s):
                    await stack.enter_async_context(self._fair.place(*who))
                    worker = await self._idle.get()
            except TimeoutError:
                return BUSY
            return await self._exchanged(worker, frame)

    async def _exchanged(self, worker: "_Worker", frame: bytes) -> _Answer:
        exchange = asyncio.ensure_future(self._exchange(worker, frame))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._exchanges.discard)
        return await asyncio.shield(exchange)

    async def _exchange(self, worker: "_Worker", frame: bytes) -> _Answer:
        try:
            return CLOSED if self._closed else await worker.ask(frame)
        finally:
            self._idle.put_nowait(worker)


def _encoded(source: str, where: str) -> bytes:
    try:
        given = source.encode()
    except UnicodeEncodeError as exc:
        line = source.count("\n", 0, exc.start) + 1
        raise _refused(where, "half a surrogate pair is no character; remove it", line) from exc
    if len(given) > SOURCE:
        raise _refused(where, f"has {len(given):,} bytes, the limit is {SOURCE:,}; shorten it")
    return given


def _refused(where: str, problem: str, line: int = 0) -> BadRequest:
    at = f"{where}, line {line}" if line else where
    return BadRequest(f"{at}: {problem}", param=where, code="template_error")


def _key(source: bytes, variables: bytes | None) -> bytes:
    """b"" for what is not kept."""
    if variables is not None and len(variables) > HASHED:
        return b""
    made = hashlib.blake2b(b"%d:" % (-1 if variables is None else len(source)), digest_size=32)
    made.update(source)
    made.update(variables or b"")
    return made.digest()


class Kept:
    """What was rendered, within KEPT and KEPT_BYTES; what was unused for longest is forgotten first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, Rendered] = OrderedDict()
        self.size = 0

    def get(self, key: bytes) -> Rendered | None:
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: bytes, rendered: Rendered) -> None:
        if not key or key in self._entries:
            return
        self._entries[key] = rendered
        self.size += _size(rendered)
        while self.size > KEPT_BYTES or len(self._entries) > KEPT:
            _, dropped = self._entries.popitem(last=False)
            self.size -= _size(dropped)


def _size(rendered: Rendered) -> int:
    """Its bytes in memory, with what an entry costs by itself."""
    return 300 + sys.getsizeof(rendered.text) + sys.getsizeof(rendered.names) + sum(map(sys.getsizeof, rendered.names))


class _Died(Exception):
    """The process ended, did not start, or answered what is no answer."""


class _Worker:
    """A place for one process, which is started when it is needed and replaced when it has died."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._child: _Child | None = None
        self._closed = False

    async def ask(self, frame: bytes) -> _Answer:
        """Asks a second process when the first one dies: it may have been killed from outside."""
        code = 0
        for _ in range(2):
            try:
                return await self._exchange(frame)
            except _Died:
                code = await self._end()
            except TimeoutError:
                await self._end()
                return LATE
            except asyncio.CancelledError:
                self._kill()  # half an exchange is in its pipes; the next request replaces it
                raise
            if code in VERDICTS or self._closed:
                break
        return CLOSED if self._closed else VERDICTS.get(code) or CRASHES.get(code, GONE)

    async def _exchange(self, frame: bytes) -> _Answer:
        child = self._child = self._child or await _started()
        if self._closed:
            raise _Died
        if not child.ready:
            async with asyncio.timeout(START_S):
                await child.receive()
            child.ready = True
        async with asyncio.timeout(self._patience_s):
            await child.send(frame)
            answer = await child.receive()
        if answer.last:
            await self._end()
        return answer

    async def _end(self) -> int:
        """Kills and reaps the process. The code is its own if it had ended before."""
        self._kill()
        child, self._child = self._child, None
        return 0 if child is None else await asyncio.to_thread(child.reap)

    def _kill(self) -> None:
        if self._child is not None:
            self._child.process.kill()

    def stop(self) -> None:
        """Ends a request under way; whoever waits for it reaps the process."""
        self._closed = True
        self._kill()

    async def close(self) -> None:
        self._closed = True
        if self._child is not None:
            await asyncio.to_thread(self._child.leave)
        await self._end()


async def _started() -> "_Child":
    try:
        return _Child(await asyncio.to_thread(_spawn))
    except OSError as exc:
        raise _Died from exc


def _spawn() -> "subprocess.Popen[bytes]":
    """Its errors go to ours until it has loaded all that it needs."""
    kept = {name: os.environ[name] for name in NEEDED if name in os.environ}
    command = [sys.executable, *OPTIONS, str(WORKER)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, bufsize=0, cwd="/", env=ENVIRONMENT | kept, start_new_session=True
    )


class _Child:
    """A process and its two pipes."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process = process
        self.ready = False
        self._stdin, self._stdout = process.stdin, process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._stdout.fileno(), False)

    async def send(self, frame: bytes) -> None:
        loop, pipe = asyncio.get_running_loop(), self._stdin.fileno()
        rest = memoryview(len(frame).to_bytes(4) + frame)
        while rest:
            try:
                rest = rest[os.write(pipe, rest) :]
            except BlockingIOError:
                await _possible(loop.add_writer, loop.remove_writer, pipe)
            except BrokenPipeError as exc:
                raise _Died from exc

    async def receive(self) -> _Answer:
        loop, pipe = asyncio.get_running_loop(), self._stdout.fileno()
        got = bytearray()
        size = ANSWER
        while len(got) < size:
            try:
                part = os.read(pipe, 1 << 16)
            except BlockingIOError:
                await _possible(loop.add_reader, loop.remove_reader, pipe)
                continue
            got += part
            if len(got) >= 4:
                size = 4 + int.from_bytes(got[:4])
            if not part or size > ANSWER:
                raise _Died
        try:
            return msgspec.json.decode(memoryview(got)[4:], type=_Answer)
        except msgspec.DecodeError as exc:
            raise _Died from exc

    def leave(self) -> None:
        """The end of its stdin is its end. Blocks."""
        self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(CLOSE_S)

    def reap(self) -> int:
        """The exit code. Blocks."""
        self._stdin.close()
        self._stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(REAP_S)
        return self.process.returncode or 0


async def _possible(add: Callable[..., object], remove: Callable[[int], object], pipe: int) -> None:
    """Waits until the pipe can be read or written."""
    now: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    add(pipe, lambda: None if now.done() else now.set_result(None))
    try:
        await now
    finally:
        remove(pipe)
