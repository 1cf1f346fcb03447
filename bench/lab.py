"""What a case gets to work with: the load generator, the mock model server, and how long it may take."""

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench import servers
from bench.bodies import Job
from bench.servers import Load, Measured, Server

T = TypeVar("T")


@dataclass(frozen=True)
class Lab:
    """The parts that all cases share."""

    load: Load
    mock: Server
    rounds: int
    quick: bool
    soak_requests: int
    locomo: Path | None = None

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @contextlib.contextmanager
    def proxy(self, home: Path | None = None, budget: int | None = servers.BUDGET) -> Generator[Server, None, None]:
        """A proxy with a fresh store, or with the one in `home`."""
        with contextlib.ExitStack() as stack:
            where = home or stack.enter_context(servers.directory())
            yield stack.enter_context(servers.proxy(where, self.mock.port, budget=budget))

    @contextlib.contextmanager
    def yardsticks(self) -> Generator[tuple[Server, Server | None], None, None]:
        """The Python pass-through and nginx, the latter None where it is not installed."""
        with servers.directory() as home, contextlib.ExitStack() as stack:
            python = stack.enter_context(servers.yardstick(home, self.mock.port))
            yield python, stack.enter_context(servers.nginx(home, self.mock.port))

    def fill(self, server: Server, session: str, requests: int, sessions: int = 1, messages: int = 99) -> None:
        """Store requests x (messages + 1) messages in each session, through the proxy itself, and let it settle."""
        job = Job(server.port, "fill", sessions, requests, session, messages=messages, limit_s=600)
        self.load.run(job, server)
        server.process.settle()

    def warm(self, server: Server) -> None:
        """A few hundred unmeasured requests, with and without a session: the proxy loads its tokenizer at the first."""
        self.load.run(Job(server.port, "stateless", each=self.size(20, 5)), server)
        self.load.run(Job(server.port, "turn", each=self.size(20, 5), session="warm"), server)
        server.process.settle()

    def run(self, server: Server, job: Job) -> Measured:
        return self.load.run(job, server)


def alternating(compared: Sequence[T], number: int) -> Sequence[T]:
    """The order of round `number`: every second one is reversed, so that nobody always comes first."""
    return compared if number % 2 == 0 else compared[::-1]
