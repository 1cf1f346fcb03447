"""What was measured: rows, printed as a table and written as JSON."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import nginx

PACKAGES = ("session-proxy", "starlette", "uvicorn", "uvloop", "httptools", "aiohttp", "apsw", "msgspec")


@dataclass(frozen=True)
class Row:
    """One measured value: the median of its rounds. Targets are upper limits, or lower ones where `floor` says so."""

    case: str
    name: str
    value: float
    unit: str = ""
    rounds: tuple[float, ...] = ()
    target: float | None = None
    floor: bool = False

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        met = self.value >= self.target if self.floor else self.value <= self.target
        return "met" if met else "missed"


def row(case: str, name: str, values: Sequence[float], unit: str = "", target: float | None = None) -> Row:
    """The median of `values`."""
    return Row(case, name, statistics.median(values), unit, tuple(values), target)


def ratio(case: str, name: str, ours: Sequence[float], theirs: Sequence[float], target: float | None = None) -> Row:
    """The median of the rounds' own ratios: what disturbs a round disturbs both sides of it."""
    return row(case, name, [own / other for own, other in zip(ours, theirs, strict=True) if other], "x", target)


def table(rows: Sequence[Row]) -> str:
    head = ("case", "measured", "median", "min .. max", "target", "")
    lines = [head, *(_cells(each) for each in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])


def _cells(each: Row) -> tuple[str, ...]:
    spread = f"{_number(min(each.rounds))} .. {_number(max(each.rounds))}" if len(each.rounds) > 1 else ""
    target = "" if each.target is None else f"{'>=' if each.floor else '<='} {each.target:g}"
    return (each.case, each.name, f"{_number(each.value)} {each.unit}".rstrip(), spread, target, each.verdict)


def _number(value: float) -> str:
    if float(value).is_integer():
        return f"{value:,.0f}"
    if abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"


def surroundings() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores",
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "nginx": _nginx(),
        **{name: _version(name) for name in PACKAGES},
    }


def write(file: Path, rows: Sequence[Row], about: dict[str, Any]) -> None:
    value = {"about": about, "rows": [asdict(each) | {"verdict": each.verdict} for each in rows]}
    file.write_text(json.dumps(value, indent=2) + "\n")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _nginx() -> str:
    found = nginx.binary()
    if found is None:
        return "absent"
    answer = subprocess.run([found, "-v"], capture_output=True, text=True, timeout=10, check=False)
    return answer.stderr.strip().rpartition("/")[2]
