"""What a turn is given: the request as read at the edge, and the parts that app.py wired."""

import asyncio
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import TracebackType

import msgspec

from proxy.calibration import Calibration
from proxy.completion import Storing
from proxy.config import Config
from proxy.context.tokens import Count
from proxy.errors import Conflict
from proxy.forwarded import Forwarded
from proxy.recall.embed import Embedder, Off
from proxy.resources import Profile
from proxy.store.database import Database
from proxy.summarize import Summaries
from proxy.telemetry.log import Log
from proxy.telemetry.metrics import Metrics
from proxy.templates.renderer import Renderer
from proxy.types import Line, Options, Scope
from proxy.upstream.breaker import Breakers
from proxy.upstream.protocol import Headers, Upstream
from proxy.upstream.route import Target


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One request of a session, parsed.

    `name`: the session as the client names it. `fields`: the body's top level, values as raw JSON, our keys taken out.
    `system`: the leading system and developer messages, None when there are none; `messages`: the others, each as its
    raw JSON and parsed. `request`: 16 bytes that a retry shares. `retried`: the SDK says so. `started`: monotonic
    seconds. `client`: the request's headers; `query`: what of its query goes up. `others`: where it may go when
    `target` fails. `sessions_api`: it came through /sessions/{id}/chat. `profile`: what is set on the session, None
    when nothing is. `storing`: the answer is kept as a completion too.
    """

    scope: Scope
    name: str
    options: Options
    request_id: str
    fields: dict[str, bytes]
    system: tuple[bytes, ...] | None
    messages: Sequence[tuple[bytes, dict[str, object]]]
    model: str | None
    stream: bool
    wants_usage: bool
    reserve: int
    headers: Headers
    target: Target
    key: str
    retried: bool
    request: bytes
    now: int
    started: float
    client: Mapping[bytes, bytes] = {}
    query: str = ""
    others: tuple[Target, ...] = ()
    sessions_api: bool = False
    profile: Profile | None = None
    storing: Storing | None = None


def epoch_ms() -> int:
    return time.time_ns() // 1_000_000


def new_id() -> str:
    return str(uuid.uuid4())


class TurnQueue:
    """First come, first served, for each session; sessions never wait for each other."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self._lines: dict[Line, deque[asyncio.Future[None]]] = {}

    def turn(self, key: Line, wait_s: float | None = None) -> "_Place":
        """`async with` it: the body runs alone in its session. Raises Conflict after `wait_s` seconds of waiting."""
        return _Place(self, key, self.wait_s if wait_s is None else wait_s)

    async def enter(self, key: Line, wait_s: float) -> None:
        line = self._lines.get(key)
        if line is None:
            self._lines[key] = deque()
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(place)
        try:
            async with asyncio.timeout(wait_s):
                await place
        except TimeoutError:
            self._leave_line(key, place)
            raise Conflict(
                f"another turn of this session has been running for {wait_s:g} s; try again",
                code="session_busy",
                headers={"Retry-After": "1"},
            ) from None
        except asyncio.CancelledError:
            self._leave_line(key, place)
            raise

    def _leave_line(self, key: Line, place: asyncio.Future[None]) -> None:
        if place.done() and not place.cancelled():
            self.leave(key)  # the turn came in the moment it was given up: pass it on
        elif place in self._lines.get(key, ()):
            self._lines[key].remove(place)

    def leave(self, key: Line) -> None:
        line = self._lines[key]
        while line:
            place = line.popleft()
            if not place.done():
                place.set_result(None)
                return
        del self._lines[key]


class _Place(AbstractAsyncContextManager[None]):
    __slots__ = ("key", "queue", "wait_s")

    def __init__(self, queue: TurnQueue, key: Line, wait_s: float) -> None:
        self.queue = queue
        self.key = key
        self.wait_s = wait_s

    async def __aenter__(self) -> None:
        await self.queue.enter(self.key, self.wait_s)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.queue.leave(self.key)


class Numbers:
    """Turn numbers promised to running turns: observed requests of one session run at once, and each tells its number
    before it commits."""

    def __init__(self) -> None:
        self._promised: dict[Line, list[int]] = {}
        self._uuids: dict[Line, str] = {}

    def promise(self, key: Line, stored: int) -> int:
        """The next number after the stored ones and those promised."""
        promised = self._promised.setdefault(key, [])
        number = max([stored, *promised]) + 1
        promised.append(number)
        return number

    def uuid(self, key: Line) -> str:
        """The UUID of a session that is being made: the same for all first turns that run at once."""
        return self._uuids.setdefault(key, new_id())

    def release(self, key: Line, number: int) -> None:
        promised = self._promised[key]
        promised.remove(number)
        if not promised:
            del self._promised[key]
            self._uuids.pop(key, None)


class Failed:
    """The last request of each session that failed, since its last stored turn. Its retry is no retry of an equal
    question before it, whose answer would else be given again. Forgotten with the process, and beyond `MOST`."""

    MOST = 10_000

    def __init__(self) -> None:
        self._requests: OrderedDict[Line, bytes] = OrderedDict()

    def note(self, key: Line, request: bytes) -> None:
        self._requests[key] = request
        if len(self._requests) > self.MOST:
            self._requests.popitem(last=False)

    def clear(self, key: Line) -> None:
        self._requests.pop(key, None)

    def has(self, key: Line, request: bytes) -> bool:
        return self._requests.get(key) == request


@dataclass(frozen=True, slots=True)
class Services:
    """The wired parts. `counter` gives the token counter, loading it at first use; `context_of` a model's context in
    tokens as its upstream tells it, None if it does not."""

    config: Config
    db: Database
    upstreams: Mapping[str, Upstream]
    counter: Callable[[], Awaitable[Count]]
    context_of: Callable[[Target, Headers], Awaitable[int | None]]
    queue: TurnQueue
    log: Log
    templates: Renderer
    summaries: Summaries
    calibration: Calibration
    numbers: Numbers = field(default_factory=Numbers)
    forwarded: Forwarded = field(default_factory=Forwarded)
    failed: Failed = field(default_factory=Failed)
    metrics: Metrics = field(default_factory=Metrics)
    embedder: Embedder = field(default_factory=Off)
    breakers: Breakers = field(default_factory=Breakers)
