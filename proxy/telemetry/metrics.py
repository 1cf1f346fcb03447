"""What /metrics tells: sums over everybody's turns and requests, in Prometheus' text format.

Intentional: the sums are plain numbers, and the library only writes them out. Its own counters take a lock for each
step, which costs ten times as much, and all counting is done in the event loop. No label comes from a request: their
values are those of the tables below, and whatever else comes counts as `other`.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, product

import msgspec
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

PREFIX = "session_proxy_"
OTHER = "other"
LARGEST = 1 << 40
"""Tokens that a model server may claim to have counted."""

STRATEGIES = ("adaptive", "truncate", "summarize", "null", "observe")
SEGMENTS = ("system", "tools", "summary", "history", "recall", "new")
PARTS = ("recall", "history", "embedder", "summary")
CHATS = ("chat", "session_chat")
ENDPOINTS = (*CHATS, "openai", "sessions_api")
UPSTREAM = (
    "upstream_unreachable", "upstream_timeout", "upstream_broken", "upstream_busy", "upstream_closed",
    "upstream_auth_error", "upstream_redirected", "answer_too_large",
)  # fmt: skip
ERRORS = (
    "client_left", "internal", "storage_unavailable", "shutting_down", "session_busy", "session_moved_on",
    "session_changed", "session_deleted", "invalid_api_key", "forbidden", "context_length_exceeded",
    "request_timeout", "request_too_large", "validation_error", "invalid_request_error", "model_not_found",
    "not_found", "session_not_found", "unknown_url", "upstream_error", *UPSTREAM,
)  # fmt: skip
"""The codes that somebody who runs the proxy may want to tell apart."""

Key = tuple[str, ...]
"""The values of a series' labels."""


def _each(values: Iterable[str]) -> list[Key]:
    return [(value,) for value in (*values, OTHER)]


COUNTERS: Mapping[str, tuple[str, Key, Collection[Key]]] = {
    "turns": (
        "Stored turns: how their context was chosen, and whether their answer came whole.",
        ("strategy", "outcome"),
        list(product((*STRATEGIES, OTHER), ("complete", "incomplete"))),
    ),
    "prompt_tokens": (
        "Tokens sent to model servers, as the proxy counts them.",
        ("segment",),
        [(segment,) for segment in SEGMENTS],
    ),
    "prefix_tokens": (
        "Tokens that stand where the last turn sent them, so that a cache can reuse them.",
        (),
        [()],
    ),
    "upstream_prompt_tokens": ("Tokens sent, as model servers count them.", (), [()]),
    "upstream_cached_tokens": ("Those of them that model servers took from their caches.", (), [()]),
    "recalled": ("Documents and old turns that were put in.", ("source",), [("doc",), ("history",)]),
    "dropped_messages": ("Stored messages that were left out, in each turn again.", (), [()]),
    "cleared_results": ("Old tool results that a marker stood in for, in each turn again.", (), [()]),
    "summaries": ("Summaries.", ("outcome",), [("made",), ("failed",)]),
    "context_retries": ("Turns sent again, shorter, since the model's context was too small.", (), [()]),
    "fallbacks": ("Requests that went on to another upstream, since one failed them.", (), [()]),
    "session_errors": ("Parts that failed while their turn went on without them.", ("part",), _each(PARTS)),
    "lost_turns": ("Turns whose answer was sent while the store did not confirm them.", (), [()]),
    "requests": ("Requests, by the answer's status; `none`: it ended before one.", ("endpoint", "code"), []),
    "errors": ("Requests that failed, by the failure's code.", ("code",), _each(ERRORS)),
    "upstream_errors": (
        "Requests that failed at the model server: how, or with which status.",
        ("code",),
        [(code,) for code in UPSTREAM],
    ),
}
"""name -> what it is, its labels, the series that are there from the start."""

WAITS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
HISTOGRAMS: Mapping[str, tuple[str, Sequence[float]]] = {
    "counter_error_ratio": (
        "How far the estimate of a prompt's tokens was from the model server's count, as a part of that.",
        (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    ),
    "overhead_seconds": (
        "The proxy's own time in a turn until its answer begins: no wait for a queue or a model server.",
        (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0),
    ),
    "wait_seconds": ("A turn's wait for the turn before it and for the model server's answer to begin.", WAITS),
    "time_to_first_byte_seconds": ("From a chat request to the first byte of its answer.", WAITS),
}
"""name -> what it is, the upper bounds of its buckets."""


class Told(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a stored turn tells of itself. Segments and `prefix`, which of them the last turn sent too, are in raw
    tokens; `estimate` is what they were expected to be for the model server, `usage` what it says, as it came."""

    strategy: str
    complete: bool = True
    system: int = 0
    tools: int = 0
    summary: int = 0
    history: int = 0
    recall: int = 0
    new: int = 0
    prefix: int = 0
    dropped: int = 0
    cleared: int = 0
    recalled_docs: int = 0
    recalled_turns: int = 0
    estimate: int = 0
    usage: object = None


class _Spread:
    """How often a number was how large."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, number: float) -> None:
        self.counts[bisect_left(self.bounds, number)] += 1
        self.total += number


class Metrics:
    """The sums of one application. With `on` False nothing is counted. Call it in the event loop; nothing of it can
    fail a turn."""

    def __init__(self, on: bool = True) -> None:
        self.on = on
        self._sums = {name: defaultdict(int, dict.fromkeys(keys, 0)) for name, (_, _, keys) in COUNTERS.items()}
        self._spreads = {name: _Spread(bounds) for name, (_, bounds) in HISTOGRAMS.items()}

    def turn(self, told: Told) -> None:
        """A turn that is stored."""
        if not self.on:
            return
        sums = self._sums
        sums["turns"][_known(told.strategy, STRATEGIES), "complete" if told.complete else "incomplete"] += 1
        prompt = sums["prompt_tokens"]
        prompt["system",] += told.system
        prompt["tools",] += told.tools
        prompt["summary",] += told.summary
        prompt["history",] += told.history
        prompt["recall",] += told.recall
        prompt["new",] += told.new
        sums["prefix_tokens"][()] += told.prefix
        sums["dropped_messages"][()] += told.dropped
        sums["cleared_results"][()] += told.cleared
        sums["recalled"]["doc",] += told.recalled_docs
        sums["recalled"]["history",] += told.recalled_turns
        if isinstance(told.usage, dict):
            self._counted(told.estimate, told.usage)

    def _counted(self, estimate: int, usage: Mapping[str, object]) -> None:
        counted = _tokens(usage.get("prompt_tokens"))
        if not counted:
            return
        self._sums["upstream_prompt_tokens"][()] += counted
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict):
            self._sums["upstream_cached_tokens"][()] += min(_tokens(details.get("cached_tokens")), counted)
        if estimate:
            self._spreads["counter_error_ratio"].add(abs(estimate - counted) / counted)

    def request(
        self, path: str, status: int, outcome: str, first_byte_s: float | None = None, overhead_s: float | None = None
    ) -> None:
        """A request that is over. `first_byte_s`: after how long its answer began; `overhead_s`: what of it was the
        proxy's own time, None for a request that was no new turn."""
        if not self.on:
            return
        where = endpoint(path)
        self._sums["requests"][where, str(status) if 100 <= status <= 599 else "none"] += 1
        if outcome != "ok":
            self._failed(status, outcome)
        if first_byte_s is not None and where in CHATS:
            self._spreads["time_to_first_byte_seconds"].add(first_byte_s)
            if overhead_s is not None:
                self._spreads["overhead_seconds"].add(overhead_s)
                self._spreads["wait_seconds"].add(max(0.0, first_byte_s - overhead_s))

    def _failed(self, status: int, outcome: str) -> None:
        self._sums["errors"][_known(outcome, ERRORS),] += 1
        if outcome in UPSTREAM:
            self._sums["upstream_errors"][outcome,] += 1
        elif outcome == "upstream_error":  # it answered with an error of its own
            self._sums["upstream_errors"][str(status) if 400 <= status <= 599 else OTHER,] += 1

    def summary(self, made: bool) -> None:
        """A summary that was made, or could not be."""
        self._add("summaries", "made" if made else "failed")

    def context_retry(self) -> None:
        """A turn that is sent again, shorter: the model's context was smaller than thought."""
        self._add("context_retries")

    def fallback(self) -> None:
        """A request that goes to another upstream."""
        self._add("fallbacks")

    def session_error(self, part: str) -> None:
        """A part of PARTS that failed open: the turn goes on without it."""
        self._add("session_errors", _known(part, PARTS))

    def lost_turn(self) -> None:
        """A turn whose answer was sent, and that the store did not confirm."""
        self._add("lost_turns")

    def _add(self, name: str, *key: str) -> None:
        if self.on:
            self._sums[name][key] += 1

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """The sums as the library's families: prometheus_client's Collector, for its registries too."""
        for name, (said, labels, _) in COUNTERS.items():
            counter = CounterMetricFamily(PREFIX + name, said, labels=labels)
            for key, number in self._sums[name].items():
                counter.add_metric(key, number)
            yield counter
        for name, (said, bounds) in HISTOGRAMS.items():
            spread = self._spreads[name]
            upto = zip((*map(str, bounds), "+Inf"), accumulate(spread.counts), strict=True)
            yield HistogramMetricFamily(PREFIX + name, said, buckets=list(upto), sum_value=spread.total)

    def render(self) -> bytes:
        """All of it in Prometheus' text format 0.0.4."""
        return generate_latest(self)


def endpoint(path: str) -> str:
    """Which of ENDPOINTS a path belongs to: no name or id of it goes on."""
    if path == "/v1/chat/completions":
        return "chat"
    if path.startswith("/v1/"):
        return "openai"
    chat = path.startswith("/sessions/") and path.endswith("/chat") and path.count("/") == 3
    return "session_chat" if chat else "sessions_api"


def _known(value: str, known: Collection[str]) -> str:
    return value if value in known else OTHER


def _tokens(claimed: object) -> int:
    """What a model server says it counted, if it can be a number of tokens, else 0."""
    return claimed if type(claimed) is int and 0 < claimed <= LARGEST else 0
