"""One process that the benchmark starts, with what it uses: CPU time, memory, descriptors. Linux only.

CPU time is read from the clock that the kernel keeps per process (nanoseconds, all threads, ended ones included); where
that is refused, from /proc/<pid>/stat, which counts in ticks of 10 ms.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

STOP_S = 20.0
TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A case could not run; the message says why."""


def cores() -> tuple[set[int], set[int]] | None:
    """The core of the server under test and that of everything else, or None where there is only one."""
    free = sorted(os.sched_getaffinity(0))
    return ({free[0]}, set(free[1:])) if len(free) > 1 else None


class Process:
    """A started process and the children it has made."""

    def __init__(self, name: str, popen: subprocess.Popen[str], log: Path) -> None:
        self.name = name
        self.popen = popen
        self.log = log

    def tree(self) -> list[int]:
        """The process and its descendants."""
        parents = dict(_parents())
        found = [self.popen.pid]
        for pid in found:
            found.extend(child for child, parent in parents.items() if parent == pid)
        return found

    def cpu(self) -> float:
        """CPU seconds used so far."""
        return sum(_cpu(pid) for pid in self.tree())

    def rss_mb(self) -> float:
        return sum(_field(Path(f"/proc/{pid}/status"), "VmRSS:") for pid in self.tree()) / 1024

    def pss_mb(self) -> float:
        """Memory with shared pages divided among their users; it reads the whole page table, so never under load."""
        return sum(_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in self.tree()) / 1024

    def descriptors(self) -> int:
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.tree())

    def settle(self, limit_s: float = 10.0) -> None:
        """Wait until what runs in the background has ended: under 1 % of a core for 0.3 s."""
        end = time.monotonic() + limit_s
        quiet, last = 0, self.cpu()
        while quiet < 3 and time.monotonic() < end:
            time.sleep(0.1)
            now = self.cpu()
            quiet = quiet + 1 if now - last < 0.001 else 0
            last = now

    def check(self) -> None:
        code = self.popen.poll()
        if code is not None:
            raise Failed(f"{self.name} ended with code {code}: {self.tail()}")

    def tail(self) -> str:
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")[-1500:].strip() or "no output"
        return "no output"

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to what is left of this process and its children."""
        tree = self.tree() if self.popen.poll() is None else []
        self.popen.terminate()
        try:
            self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            for pid in tree:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.popen.wait(STOP_S)


@contextlib.contextmanager
def start(
    name: str, command: list[str], home: Path, on: set[int] | None, talks: bool = False
) -> Generator[Process, None, None]:
    """Run `command` in `home` on the cores `on`; stopped at the end. Its output goes to a file, unless it talks."""
    log = home / f"{name}.log"
    with log.open("w") as output:
        popen = subprocess.Popen(
            command,
            cwd=home,
            env=_environment(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if talks else output,
            stderr=output,
            text=True,
        )
    process = Process(name, popen, log)
    try:
        if on is not None:
            os.sched_setaffinity(popen.pid, on)
        yield process
    finally:
        process.stop()
        for pipe in (popen.stdin, popen.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _environment(outer: Mapping[str, str]) -> dict[str, str]:
    """Ours without what would configure the proxy, and with this checkout first on the path."""
    kept = {key: value for key, value in outer.items() if not key.startswith(("PROXY_", "OPENAI_"))}
    root = str(Path(__file__).parent.parent)
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, [root, kept.get("PYTHONPATH")]))}


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), int(_stat(entry)[1])


def _stat(entry: Path) -> list[str]:
    """The fields of stat after the command's name, which may hold spaces: state, parent, ..."""
    return (entry / "stat").read_text().rpartition(")")[2].split()


def _cpu(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)
    except OSError:
        pass
    with contextlib.suppress(OSError):
        fields = _stat(Path(f"/proc/{pid}"))
        return (int(fields[11]) + int(fields[12])) / TICK
    return 0.0


def _field(file: Path, name: str) -> float:
    """A number of kilobytes from a file of `Name: 123 kB` lines."""
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            if line.startswith(name):
                return float(line.split()[1])
    return 0.0
