"""The cases. A new one: a file here with a function from Lab to rows, and a line in CASES."""

from collections.abc import Callable

from bench.cases.api import api
from bench.cases.context import context
from bench.cases.hangup import hangup
from bench.cases.history import history
from bench.cases.prefix import prefix
from bench.cases.soak import soak
from bench.cases.start import start
from bench.cases.stateless import stateless
from bench.cases.stream import stream
from bench.cases.turn import turn
from bench.lab import Lab
from bench.report import Row

CASES: dict[str, Callable[[Lab], list[Row]]] = {
    "stateless": stateless,
    "turn": turn,
    "history": history,
    "stream": stream,
    "start": start,
    "api": api,
    "context": context,
    "prefix": prefix,
    "hangup": hangup,
    "soak": soak,
}
