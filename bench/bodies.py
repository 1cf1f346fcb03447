"""The requests that are sent: a job in, request bytes out. Every text is unique and about 60 tokens long."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CLAUSES = (
    "the harbour master wrote the tide table twice and kept one copy for himself",
    "nobody asked why the red lamp on the pier had burned all through the afternoon",
    "three crates of oranges were counted again after the rain had stopped",
    "a letter for the captain waited in the office until the second ferry came",
    "the price of rope went up before winter as it does in every dry year",
    "two boats were painted blue and the third one stayed in the yard",
    "the new clerk learned the names of the ships by heart within a week",
)
MIXED = {1: "stateless", 4: "stream", 7: "leave", 9: "stateless", 14: "stream", 18: "stateless"}


@dataclass(frozen=True)
class Job:
    """What the load generator does: every connection sends `each` requests, one after the other.

    `kind` is stateless, turn, fill (`messages` at once), stream, leave, mix, get or create. `session` is the head of
    the session names: each connection has its own session, in a mix each request picks one of `sessions`. A get asks
    for the next of `paths`; a create makes a session of the Sessions API, the next of `paths` being its body.
    """

    port: int
    kind: str
    connections: int = 32
    each: int = 100
    session: str = ""
    model: str = "bench"
    first: int = 0
    messages: int = 1
    sessions: int = 1
    chunks: int = 0
    stagger_ms: float = 0.0
    paths: Sequence[str] = ()
    limit_s: float = 120.0

    @classmethod
    def read(cls, line: str | bytes) -> "Job":
        """A job as JSON; hashable, since a job's body is made once."""
        given: dict[str, Any] = json.loads(line)
        given["paths"] = tuple(given.get("paths", ()))
        return cls(**given)


@dataclass(frozen=True)
class Ask:
    """One request: its bytes, how many events its answer must have (0: not a stream), whether the client leaves."""

    data: bytes
    events: int = 0
    leaves: bool = False


def text(session: str, number: int) -> str:
    """About 60 tokens that no other session and number has."""
    picked = [CLAUSES[(number + step) % len(CLAUSES)] for step in (0, 2, 4)]
    return f"Note {number} of {session}: {picked[0]}, {picked[1]}, and {picked[2]}."


def ask(job: Job, connection: int, turn: int) -> Ask:
    """The `turn`-th request of a connection."""
    kind = job.kind
    if kind in ("get", "create"):
        given = job.paths[(job.first + turn * job.connections + connection) % len(job.paths)]
        return Ask(_get(job, given) if kind == "get" else _request(job, "POST /sessions", given.encode()))
    name = f"{job.session}-{connection}"
    if kind == "mix":
        serial = job.first + turn * job.connections + connection
        kind = MIXED.get(serial % 20, "turn")
        name = f"{job.session}-{serial % job.sessions}"
    number = job.first + turn
    if kind == "stateless":
        return _stateless(job)
    if kind == "fill":
        return Ask(_fill(job, name, number))
    messages = [_message("user", text(name, number))]
    head = f"X-Session-Id: {name}\r\n" if job.session else ""
    if kind == "turn":
        return Ask(_post(job, messages, head))
    # The content chunks, the finish and [DONE]; the usage event is for those who ask for it.
    return Ask(_post(job, messages, head, stream=True), job.chunks + 2, kind == "leave")


@functools.lru_cache(maxsize=4)
def _stateless(job: Job) -> Ask:
    return Ask(_post(job, [_message("system", _pad(700)), _message("user", _pad(1200))]))


def _fill(job: Job, name: str, number: int) -> bytes:
    first = number * job.messages
    roles = ("user", "assistant")
    messages = [_message(roles[n % 2], text(name, first + n)) for n in range(job.messages)]
    # New messages beyond the budget are refused, so a fill brings a budget of its own; it is just large enough that
    # little of the older history goes up with it.
    head = f"X-Session-Id: {name}\r\nX-Session-Mode: append\r\nX-Session-Token-Budget: {90 * job.messages + 500}\r\n"
    return _post(job, messages, head)


def _post(job: Job, messages: list[dict[str, str]], head: str = "", stream: bool = False) -> bytes:
    value: dict[str, object] = {"model": job.model, "messages": messages, "temperature": 0.7}
    if stream:
        value["stream"] = True
    return _request(job, "POST /v1/chat/completions", json.dumps(value).encode(), head)


def _request(job: Job, line: str, body: bytes, head: str = "") -> bytes:
    lines = (
        f"{line} HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{job.port}\r\nAuthorization: Bearer sk-bench\r\nContent-Type: application/json\r\n"
        f"User-Agent: bench\r\n{head}Content-Length: {len(body)}\r\n\r\n"
    )
    return lines.encode() + body


def _get(job: Job, path: str) -> bytes:
    lines = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{job.port}\r\nAuthorization: Bearer sk-bench\r\n"
    return f"{lines}User-Agent: bench\r\n\r\n".encode()


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _pad(size: int) -> str:
    line = ". ".join(CLAUSES) + ". "
    return (line * (size // len(line) + 1))[:size]
