"""Rolling summaries, made off the request path: one call at a time for a branch, a few at once in all.

Each call covers the next block of the conversation and is stored by itself: a crash or a stop loses the call that runs,
and the next turn of the session goes on from what is stored. No turn waits for a summary, and none fails with one.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

import msgspec

from proxy.config import Config, origin
from proxy.context import summary
from proxy.context.tokens import Count
from proxy.errors import ProxyError, UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamUnreachable
from proxy.store import summaries
from proxy.store.database import Database
from proxy.store.entries import Segment
from proxy.store.summaries import Summary
from proxy.telemetry.log import Log, defect
from proxy.telemetry.metrics import Metrics
from proxy.types import Entry, Scope
from proxy.upstream.exchange import whole
from proxy.upstream.fold import Fold
from proxy.upstream.headers import upstream_headers
from proxy.upstream.protocol import Call, Headers, Upstream
from proxy.upstream.route import Target, route

AT_ONCE = 4
WAITING = 1000
"""Branches that wait for a summary at the most; what comes on top is started again by its next turn."""
FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 600.0
REMEMBERED = 10_000
"""Sessions whose last failure is remembered."""
LONGEST_READ = 2048
"""Entries of one group that are read: one that has more ends there."""
OWN = (b"idempotency-key", b"traceparent", b"tracestate", b"accept")
"""Headers of the turn that are not the summary's."""

Key = tuple[int, int]
"""The session, and the branch that owns the last entry to be covered."""


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """What is to be summarised, and how its model is asked: the entries of a session's `line` up to the seq `upto`.
    `budget`: raw tokens that a request to `target` may have, None for no limit; `client`: the turn's headers."""

    scope: Scope
    target: Target
    client: Mapping[bytes, bytes]
    session: int
    line: Sequence[Segment]
    upto: int
    budget: int | None
    request_id: str

    @property
    def branch(self) -> int:
        """The branch that owns the last entry, 0 if that is not on the line."""
        return _owner(self.line, self.upto)


class _Rest(msgspec.Struct, frozen=True, gc=False):
    """No call until then. `code`: what failed, None where the session has had all its calls."""

    code: str | None
    until: float
    failures: int


class _Ask(msgspec.Struct, frozen=True, gc=False):
    """One call, put together, and the client that takes it to its target. `cap`: tokens that its summary may have."""

    target: Target
    upstream: Upstream
    headers: Headers
    block: summary.Block
    messages: bytes
    cap: int


@dataclass
class Summaries:
    """Makes them. Open it around all that may ask for one: it owns its tasks, and ends them when it is closed.

    `now`: epoch milliseconds; `clock`: monotonic seconds.
    """

    config: Config
    db: Database
    upstreams: Mapping[str, Upstream]
    counter: Callable[[], Awaitable[Count]]
    context_of: Callable[[Target, Headers], Awaitable[int | None]]
    log: Log
    now: Callable[[], int]
    clock: Callable[[], float] = time.monotonic
    metrics: Metrics = field(default_factory=Metrics)
    _group: asyncio.TaskGroup | None = None
    _running: dict[Key, asyncio.Task[None]] = field(default_factory=dict)
    _wanted: dict[Key, Wanted] = field(default_factory=dict)
    _rests: OrderedDict[int, _Rest] = field(default_factory=OrderedDict)
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        group, self._group = self._group, None
        for task in self._running.values():
            task.cancel()
        if group is not None:
            await group.__aexit__(None, None, None)

    def rewire(
        self,
        config: Config,
        upstreams: Mapping[str, Upstream],
        context_of: Callable[[Target, Headers], Awaitable[int | None]],
    ) -> None:
        """Another configuration, for the next call; one that has begun goes on as it was put together."""
        self.config, self.upstreams, self.context_of = config, upstreams, context_of

    def start(self, wanted: Wanted) -> None:
        """Makes what is wanted in the background, unless it is being made or has just failed. In `passthrough` mode
        nothing: the client's key is used while its request runs, which is what `during` is for."""
        if wanted.scope.credential is None:
            self._begin(wanted)

    @asynccontextmanager
    async def during(self, wanted: Wanted | None) -> AsyncGenerator[None]:
        """In `passthrough` mode the summary is made while the block runs, and given up at its end."""
        task = self._begin(wanted) if wanted is not None and wanted.scope.credential is not None else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    def failure(self, session: int) -> str | None:
        """Why the last summary of the session could not be made, as a code, while it is not tried again; None if it
        could."""
        rest = self._rests.get(session)
        return rest.code if rest is not None and self.clock() < rest.until else None

    async def settled(self) -> None:
        """Waits until nothing is being made."""
        while self._running:
            await asyncio.wait(self._running.values())

    def _begin(self, wanted: Wanted) -> asyncio.Task[None] | None:
        key = wanted.session, wanted.branch
        rest = self._rests.get(wanted.session)
        if self._group is None or not wanted.branch or (rest is not None and self.clock() < rest.until):
            return None
        if key in self._running:
            self._wanted[key] = max(wanted, self._wanted[key], key=lambda one: one.upto)
            return None
        if len(self._running) >= WAITING:
            return None
        self._wanted[key] = wanted
        task = self._running[key] = self._group.create_task(self._work(key))
        task.add_done_callback(lambda _: self._ended(key))
        return task

    def _ended(self, key: Key) -> None:
        del self._running[key], self._wanted[key]

    async def _work(self, key: Key) -> None:
        """Block after block, until all that is wanted is covered. Others get their turn between two."""
        going_on = True
        try:
            while going_on:
                async with self._gate:
                    going_on = await self._advance(self._wanted[key])
        except ProxyError as failure:
            self._failed(self._wanted[key], failure.code or _code(failure))
        except Exception as exc:  # noqa: BLE001 - a worker's loop: a defect of ours, told without its texts
            defect(self.log, exc)
            self._failed(self._wanted[key], "internal")

    def _failed(self, wanted: Wanted, code: str) -> None:
        before = self._rests.get(wanted.session)
        failures = 1 + (before.failures if before is not None else 0)
        self.metrics.summary(made=False)
        self.log("warning", "summary_failed", request_id=wanted.request_id, session=wanted.session, code=code)
        self._rest(wanted.session, _Rest(code, self.clock() + pause(failures), failures))

    def _rest(self, session: int, rest: _Rest) -> None:
        self._rests[session] = rest
        if len(self._rests) > REMEMBERED:
            self._rests.popitem(last=False)

    async def _advance(self, wanted: Wanted) -> bool:
        """One block. False when there is nothing left to do."""
        begun = self.clock()
        scope, session = wanted.scope, wanted.session
        earlier = await summaries.newest(self.db, scope, session, wanted.line)
        ask = await self._ask(wanted, earlier)
        if ask is None:
            return False
        if not await summaries.take_call(self.db, scope, session, self.config.context.summary_max_calls):
            self.log("info", "summary_calls_used_up", request_id=wanted.request_id, session=session)
            self._rest(session, _Rest(None, self.clock() + LONGEST_PAUSE_S, 0))
            return False
        text = await self._answer(wanted, ask)
        count = await self.counter()
        text = await asyncio.to_thread(summary.fitted, text, ask.cap, count)
        upto, branch = ask.block.upto, _owner(wanted.line, ask.block.upto)
        price = summary.price(text, count)
        made = Summary(branch, upto, price, ask.target.model or "", self.now(), text)
        stored = await summaries.add(self.db, scope, session, ask.block.turn, made)
        self._rests.pop(session, None)
        self.metrics.summary(made=True)
        ms = round(1000 * (self.clock() - begun))
        self.log("info", "summary", request_id=wanted.request_id, session=session, upto=upto, tokens=price, ms=ms)
        return stored

    async def _ask(self, wanted: Wanted, earlier: Summary | None) -> _Ask | None:
        """The next call; None when all that is wanted is covered."""
        first = 1 + (earlier.upto if earlier is not None else 0)
        if first > wanted.upto:
            return None
        target = _target(self.config, wanted)
        upstream, context_of = self.upstreams[target.upstream.name], self.context_of  # now: a reload brings others
        kept = {name: value for name, value in wanted.client.items() if name not in OWN}
        headers = upstream_headers(wanted.scope.credential, target.upstream, {**kept, b"accept": b"application/json"})
        budget = wanted.budget
        if target is not wanted.target:
            context = target.context_tokens or await context_of(target, headers)
            budget = min((size for size in (budget, context) if size is not None), default=None)
        text = earlier.text if earlier is not None else ""
        cap = summary.most(self.config.context.summary_max_tokens, budget)
        count = await self.counter()
        rest = self._rests.get(wanted.session)
        size = summary.room(budget, text, cap, count) >> min(3, rest.failures if rest is not None else 0)
        entries = await self._uncovered(wanted, first, size)
        if not entries:
            return None
        block = await asyncio.to_thread(summary.block, entries, wanted.upto, size, count)
        return _Ask(target, upstream, headers, block, summary.messages(text, block, cap), cap)

    async def _uncovered(self, wanted: Wanted, first: int, size: int) -> list[Entry]:
        """The entries from the seq `first` on that the next block is chosen from."""
        entries: list[Entry] = []
        while first <= wanted.upto and len(entries) < LONGEST_READ:
            page = await summaries.uncovered(self.db, wanted.scope, wanted.session, wanted.line, first)
            entries += page
            if not page or summary.is_enough(entries, size):
                break
            first = entries[-1].seq + 1
        return entries

    async def _answer(self, wanted: Wanted, ask: _Ask) -> str:
        """What the model writes. A call that no model answered is not counted."""
        try:
            body = await self._called(wanted, ask)
        except (UpstreamRefused, UpstreamUnreachable):
            await summaries.give_call_back(self.db, wanted.scope, wanted.session)
            raise
        fold = Fold()
        fold.whole(body)
        answer = fold.message()
        text = summary.text_of(answer)
        if not text:
            code = "summary_refused" if answer.get("refusal") else "summary_empty"
            raise UpstreamBroken("the model gave no summary", code=code)
        return text

    async def _called(self, wanted: Wanted, ask: _Ask) -> bytes:
        try:
            return await self._sent(wanted, ask, b"max_tokens")
        except UpstreamRefused as exc:
            if exc.status != 400 or "max_completion_tokens" not in exc.message:
                raise
        return await self._sent(wanted, ask, b"max_completion_tokens")  # OpenAI's reasoning models know no other

    async def _sent(self, wanted: Wanted, ask: _Ask, limit: bytes) -> bytes:
        named = b'"model":%b,' % msgspec.json.encode(ask.target.model) if ask.target.model is not None else b""
        body = b'{%b"messages":%b,"%b":%d}' % (named, ask.messages, limit, ask.cap)
        call = Call("POST", "/chat/completions", body, ask.headers)
        own_key = wanted.scope.credential is None
        return await whole(ask.upstream, ask.target.upstream, call, own_key, self.config.limits.answer_mb << 20)


def pause(failures: int) -> float:
    """Seconds until a session's next try after so many failures in a row."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))


def _target(config: Config, wanted: Wanted) -> Target:
    """Where the call goes. The turn's upstream may have changed or gone since: then to whoever serves its model now.
    Raises NotFound if nobody does, UpstreamError for a client's own key, which goes to its origin only."""
    named, sent = config.context.summary_model, wanted.target
    if named is None and sent.upstream in config.upstreams:
        return sent
    target = route(config, sent.model if named is None else named)
    if wanted.scope.credential is not None and origin(target.upstream.base_url) != origin(sent.upstream.base_url):
        raise UpstreamError("the client's own key is not for the model that summarises", code="summary_elsewhere")
    return target


def _owner(line: Sequence[Segment], seq: int) -> int:
    return next((branch for branch, first, last in line if first <= seq <= last), 0)


def _code(failure: ProxyError) -> str:
    return f"upstream_{failure.status}" if isinstance(failure, UpstreamRefused) else failure.type
