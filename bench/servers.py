"""The servers that are compared, each started on a free port and ready when handed out."""

import contextlib
import http.client
import json
import select
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from bench import nginx as nginx_config
from bench import process
from bench.bodies import Job
from bench.load import GRACE_S, Result
from bench.process import Failed, Process

START_S = 60.0
BUDGET = 4000
PROXY = ("-m", "proxy", "serve")


@dataclass(frozen=True)
class Server:
    """A running server."""

    name: str
    port: int
    process: Process


@dataclass(frozen=True)
class Measured:
    """What one job cost a server."""

    result: Result
    cpu_s: float
    peak_mb: float

    @property
    def us_per_request(self) -> float:
        return self.cpu_s * 1e6 / max(self.result.requests, 1)

    @property
    def us_per_event(self) -> float:
        return self.cpu_s * 1e6 / max(self.result.events, 1)


class Load:
    """The load generator process: jobs in, results out."""

    def __init__(self, worker: Process) -> None:
        self.worker = worker
        self.total = Result()

    def run(self, job: Job, server: Server | None = None) -> Measured:
        """Do `job`; with `server`, also measure what it costs that server."""
        pipe, answers = self.worker.popen.stdin, self.worker.popen.stdout
        assert pipe is not None and answers is not None
        before = server.process.cpu() if server else 0.0
        try:
            pipe.write(json.dumps(asdict(job)) + "\n")
            pipe.flush()
        except BrokenPipeError as exc:
            raise Failed(f"the load generator ended: {self.worker.tail()}") from exc
        end, peak = time.monotonic() + job.limit_s + 2 * GRACE_S, 0.0
        while not select.select([answers], [], [], 0.2)[0]:
            self.worker.check()
            if server is not None:
                server.process.check()
                peak = max(peak, server.process.rss_mb())
            if time.monotonic() > end:
                raise Failed(f"the load generator did not answer within {job.limit_s + 2 * GRACE_S:g} s")
        line = answers.readline()
        after, peak = (server.process.cpu(), max(peak, server.process.rss_mb())) if server else (0.0, 0.0)
        if not line:
            raise Failed(f"the load generator ended: {self.worker.tail()}")
        result = Result(**json.loads(line))
        self.add(result)
        return Measured(result, after - before, peak)

    def add(self, result: Result) -> None:
        self.total.requests += result.requests
        self.total.errors += result.errors
        self.total.samples = (self.total.samples + result.samples)[:5]
        if result.requests and result.errors == result.requests:
            raise Failed(f"every request failed: {result.samples[0]}")


@contextlib.contextmanager
def load(home: Path) -> Generator[Load, None, None]:
    with process.start("load", [sys.executable, "-m", "bench.load"], home, _beside(), talks=True) as worker:
        yield Load(worker)


@contextlib.contextmanager
def mock(home: Path) -> Generator[Server, None, None]:
    with process.start("mock", [sys.executable, "-m", "bench.mock", "--port", "0"], home, _beside(), talks=True) as own:
        assert own.popen.stdout is not None
        line = own.popen.stdout.readline()
        if not line.strip().isdigit():
            raise Failed(f"the mock model server did not start: {own.tail()}")
        yield Server("mock", int(line), own)


@contextlib.contextmanager
def yardstick(home: Path, upstream: int) -> Generator[Server, None, None]:
    port = free_port()
    command = [sys.executable, "-m", "bench.yardstick", str(port), f"http://127.0.0.1:{upstream}/v1/chat/completions"]
    with process.start("yardstick", command, home, _tested()) as own:
        wait(own, port, lambda: answers(port, "GET", "/") == 404)
        yield Server("yardstick", port, own)


@contextlib.contextmanager
def nginx(home: Path, upstream: int) -> Generator[Server | None, None, None]:
    """None where nginx is not installed."""
    if nginx_config.binary() is None:
        yield None
        return
    port = free_port()
    with process.start("nginx", nginx_config.command(home, port, upstream), home, _tested()) as own:
        wait(own, port, lambda: answers(port, "GET", "/v1/models") == 200)
        yield Server("nginx", port, own)


@contextlib.contextmanager
def proxy(
    home: Path, upstream: int, ready: Callable[[int], bool] | None = None, budget: int | None = BUDGET
) -> Generator[Server, None, None]:
    """`session-proxy serve` with its store in `home`, handed out when /healthz, or `ready`, says so."""
    port = free_port()
    file = home / "config.yaml"
    file.write_text(yaml.safe_dump(config(home, port, upstream, budget)))
    with process.start("proxy", [sys.executable, *PROXY, "--config", str(file)], home, _tested()) as own:
        ask = ready or (lambda port: answers(port, "GET", "/healthz") == 200)
        wait(own, port, lambda: ask(port))
        yield Server("proxy", port, own)


def config(home: Path, port: int, upstream: int, budget: int | None) -> dict[str, Any]:
    return {
        "server": {"host": "127.0.0.1", "port": port},
        "auth": {"mode": "open"},
        "upstreams": [{"name": "mock", "base_url": f"http://127.0.0.1:{upstream}/v1", "api_key": "", "models": ["*"]}],
        "storage": {"url": f"sqlite:///{home / 'bench.db'}", "synchronous": "full"},
        "context": {"token_budget": budget, "overflow": "truncate"},
    }


@contextlib.contextmanager
def directory() -> Generator[Path, None, None]:
    """A directory of its own, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="session-proxy-bench-") as name:
        yield Path(name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int, method: str, path: str, body: str | None = None, session: str = "") -> int:
    """The status of one request, 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    head = {"Content-Type": "application/json"} | ({"X-Session-Id": session} if session else {})
    try:
        connection.request(method, path, body, head)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def seen(mock: Server) -> dict[str, int]:
    """What has reached the mock model server so far: requests, body_bytes, left."""
    connection = http.client.HTTPConnection("127.0.0.1", mock.port, timeout=10)
    try:
        connection.request("GET", "/stats")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def wait(own: Process, port: int, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + START_S
    while not ready():
        own.check()
        if time.monotonic() > end:
            raise Failed(f"{own.name} was not ready on port {port} within {START_S:g} s: {own.tail()}")
        time.sleep(0.005)


def _tested() -> set[int] | None:
    pair = process.cores()
    return pair[0] if pair else None


def _beside() -> set[int] | None:
    pair = process.cores()
    return pair[1] if pair else None
