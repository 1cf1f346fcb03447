"""The child process that renders: Jinja's sandbox inside the kernel's limits. Run by its path.

Frames on stdin and stdout: four bytes of length, most significant first, then the content. A request is a line of JSON
(`Request`) and after it the variables, a JSON object; an answer is JSON (`Answer`). The end of stdin ends the process.

Intentional: the limits are the kernel's, since `2**10000000000` is one call in C that neither a thread nor a Python
signal handler can interrupt. SIGPROF keeps its default action, which ends the process; the parent starts another one.
Nothing of the product is imported here: a template that broke out would find no key, no store and no file to open.

Intentional: types are no globals. `str.format("{0.__class__}", x)` and `dict.update(x, ...)` pass Jinja's sandbox,
which looks at bound methods only, and `cycler.reset(f)` sets an attribute on anything. Functions have no such methods.
"""

import contextlib
import gc
import html
import json
import os
import pprint
import re
import resource
import signal
import textwrap
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType, TracebackType
from typing import Any

import jinja2
import msgspec
import yaml
from jinja2 import debug, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Cycler, Joiner, Namespace

CPU_S = 0.5
MEMORY = 64 << 20
"""What one request may take on top of what the process holds."""
GROWTH = 64 << 20
"""A process that holds this much more than at its start ends after its answer."""
OUTPUT = 256 << 10
TEMPLATES = 256
"""Compiled templates kept."""
NAMES_TOLD = 30
PROBLEM = 1000
"""Characters of a message; it may quote the template."""
EXIT_MEMORY = 3
"""The exit code of a process that had not even the memory to say so."""

TOO_LARGE = "printed more than 256 KB of output; print less"
TOO_MUCH = "took more than 64 MB of memory; build smaller values"
TOO_DEEP = "nested too deeply; a macro must not call itself without end"
ALONE = "a template stands alone; put the text here instead of include, import or extends"

NEEDED_LATER = (debug, html, pprint, textwrap, unicodedata)
"""What filters and string escapes import at their first use, when no file can be opened any more."""
CODE = (type, property, FunctionType, BuiltinFunctionType, MethodType, GeneratorType)
SPECIAL = frozenset({"loop", "caller", "varargs", "kwargs"})
"""Names that Jinja fills in itself."""

_UNDEFINED = re.compile(r"'(\w+)' is undefined")
_QUOTED = re.compile(r"'([^'\\]*)'|\b\d+\b")
_TYPE = re.compile(r"'([\w.]+ object|None|Ellipsis)' has|of '\w+' object is unsafe")
_PLAIN = re.compile(r"[A-Za-z ,.;:()/-]*")


class Request(msgspec.Struct):
    """`check`: compile only."""

    source: str
    check: bool


class Answer(msgspec.Struct, omit_defaults=True):
    """`problem`: what is wrong with the template, on which `line` if that is known. `last`: the process ends now."""

    text: str = ""
    names: list[str] = []
    problem: str = ""
    line: int = 0
    last: bool = False


class Compiled(msgspec.Struct):
    template: jinja2.Template
    names: list[str]


class Refused(Exception):
    """What this file itself objects to."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


class _Loader(yaml.SafeLoader):
    """JSON's types only: a date would bring a clock, and a set an order of its own."""


_Loader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Text that a filter marked as safe is text."""


_Dumper.add_multi_representer(str, lambda dumper, text: dumper.represent_str(str(text)))


def _returns(make: Callable[..., Any]) -> Callable[..., Any]:
    """A type as a plain function, which has no attributes to climb."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return make(*args, **kwargs)

    return call


def _lists(iterate: Callable[..., Any]) -> Callable[..., Any]:
    """Intentional: a list, not an iterator; iterators of iterators overflow the stack of C when they are run."""

    def call(*args: Any, **kwargs: Any) -> list[Any]:
        return list(iterate(*args, **kwargs))

    return call


def _names() -> dict[str, Any]:
    """What a template finds beside its variables."""
    kinds = (dict, str, int, float, bool, list)
    return {
        **{kind.__name__: _returns(kind) for kind in kinds},
        **{"cycler": _returns(Cycler), "joiner": _returns(Joiner), "namespace": _returns(Namespace)},
        **{"range": safe_range, "zip": _lists(zip), "enumerate": _lists(enumerate)},
        **{"len": len, "min": min, "max": max, "sum": sum, "round": round, "any": any, "all": all},
        **{"NEWLINE": "\n", "null": None},
        "dump_json": lambda value, indent=None: json.dumps(value, indent=indent, ensure_ascii=False),
        "dump_yaml": lambda value: yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False),
        "load_json": lambda text: json.loads(text),
        "load_yaml": lambda text: yaml.load(text, Loader=_Loader),
        "search_regex": lambda pattern, text: re.search(pattern, text),
        "match_regex": lambda pattern, text: re.fullmatch(pattern, text) is not None,
    }


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's, and nothing to reach from code or to a type: no template has a use for it."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return not isinstance(obj, CODE) and not isinstance(value, type) and super().is_safe_attribute(obj, attr, value)


def _with_text(value: Any) -> Any:
    """What Python shows of these is an address, another one in each process."""
    if isinstance(value, (*CODE, Iterator, Cycler, Joiner)):
        raise Refused("a function or a generator is printed; add () or |list")
    return value


def environment() -> Sandbox:
    """Jinja as templates see it: no loader, no chance, no clock."""
    env = Sandbox(autoescape=False, trim_blocks=True, lstrip_blocks=True, finalize=_with_text)
    env.globals = _names()
    del env.filters["random"]
    return env


class Templates:
    """Compiles, and keeps what was compiled."""

    def __init__(self) -> None:
        self._environment = environment()
        self._kept: OrderedDict[str, Compiled] = OrderedDict()

    def compiled(self, source: str) -> Compiled:
        found = self._kept.get(source)
        if found is None:
            found = self._compile(source)
            self._kept[source] = found
            if len(self._kept) > TEMPLATES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(source)
        return found

    def _compile(self, source: str) -> Compiled:
        tree = self._environment.parse(source)
        other = next(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)), None)
        if other is not None:
            raise Refused(ALONE, other.lineno)
        names = sorted(meta.find_undeclared_variables(tree) - SPECIAL)
        return Compiled(self._environment.from_string(tree), names)


def rendered(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """The text, counted while it grows."""
    pieces: list[str] = []
    size = 0
    for piece in template.root_render_func(template.new_context(variables)):
        size += len(piece) if piece.isascii() else len(piece.encode(errors="surrogatepass"))
        if size > OUTPUT:
            raise Refused(TOO_LARGE)
        pieces.append(piece)
    return "".join(pieces)


def parsed(raw: memoryview) -> dict[str, Any]:
    """The variables. Half a surrogate pair, which msgspec refuses, is text to the standard library."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        variables = json.loads(str(raw, "utf-8", "replace"))
    except ValueError as exc:
        raise Refused("the variables are not JSON") from exc
    if not isinstance(variables, dict):
        raise Refused("the variables are not a JSON object")
    return variables


def answered(templates: Templates, frame: bytearray) -> Answer:
    """One request. A template can raise anything; what it raised is told without the values it worked with."""
    end = frame.index(b"\n")
    request = msgspec.json.decode(memoryview(frame)[:end], type=Request)
    variables: dict[str, Any] = {}
    try:
        compiled = templates.compiled(request.source)
        if request.check:
            return Answer(names=compiled.names)
        variables = parsed(memoryview(frame)[end + 1 :])
        frame.clear()  # it would count as the template's memory
        return Answer(text=rendered(compiled.template, variables), names=compiled.names)
    except MemoryError:
        return Answer(problem=TOO_MUCH, last=True)
    except Refused as exc:
        return Answer(problem=exc.problem, line=exc.line or _line(exc.__traceback__))
    except Exception as exc:  # noqa: BLE001  the code that runs is a stranger's
        line = exc.lineno if isinstance(exc, jinja2.TemplateSyntaxError) else _line(exc.__traceback__)
        return Answer(problem=_problem(exc, request.source, variables)[:PROBLEM], line=line)


def _line(trace: TracebackType | None) -> int:
    """The template's line in which it failed; 0 if it was not run."""
    line = 0
    while trace is not None:
        template = trace.tb_frame.f_globals.get("__jinja_template__")
        if template is not None:
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line


def _problem(exc: Exception, source: str, variables: dict[str, Any]) -> str:
    if isinstance(exc, RecursionError):
        return TOO_DEEP
    if isinstance(exc, SyntaxError):  # Python's own, of the code that Jinja made
        return "more than 20 loops or 100 blocks inside one another, or a macro with two parameters of one name"
    message = (exc.message or "") if isinstance(exc, jinja2.TemplateError) else ""
    if isinstance(exc, jinja2.TemplateSyntaxError):  # found before there are values
        return message
    if not message or not _quotes_source_only(message, source):
        return f"{type(exc).__name__}; check the values that are used here"
    if _UNDEFINED.fullmatch(message):
        names = [name for name in variables if name.isidentifier()]
        more = ", ..." if len(names) > NAMES_TOLD else ""
        return f"{message}; variables: {', '.join(names[:NAMES_TOLD])}{more}"
    return message


def _quotes_source_only(message: str, source: str) -> bool:
    """Whether Jinja's message holds nothing but its own words, names of types, and what stands in the template."""
    own = _TYPE.sub("", message)
    quoted = [match[0].strip("'") for match in _QUOTED.finditer(own)]
    return all(piece in source for piece in quoted) and _PLAIN.fullmatch(_QUOTED.sub("", own)) is not None


def encoded(answer: Answer) -> bytes:
    try:
        return msgspec.json.encode(answer)
    except UnicodeEncodeError:  # half a surrogate pair, which no JSON can hold
        whole = {name: _whole(getattr(answer, name)) for name in ("text", "problem")}
        return msgspec.json.encode(msgspec.structs.replace(answer, **whole))


def _whole(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Limits:
    """What the kernel allows. Memory is limited where /proc tells how much there is: on Linux."""

    def __init__(self) -> None:
        """Takes the limits that hold from now on: no file, no process, no dump."""
        statm = Path("/proc/self/statm")
        self._statm = os.open(statm, os.O_RDONLY) if statm.exists() else -1
        self._start = self._size()
        for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
            resource.setrlimit(kind, (0, 0))
        self._most = self._start + GROWTH + MEMORY
        if self._statm >= 0:
            resource.setrlimit(resource.RLIMIT_AS, (self._most, self._most))

    def _size(self) -> int:
        return int(os.pread(self._statm, 100, 0).split()[0]) * resource.getpagesize() if self._statm >= 0 else 0

    @contextlib.contextmanager
    def request(self) -> Generator[None]:
        if self._statm >= 0:
            resource.setrlimit(resource.RLIMIT_AS, (min(self._size() + MEMORY, self._most), self._most))
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            if self._statm >= 0:
                resource.setrlimit(resource.RLIMIT_AS, (self._most, self._most))

    def outgrown(self) -> bool:
        """Whether the process has kept so much that it should end."""
        if self._size() - self._start <= GROWTH:
            return False
        gc.collect()
        return self._size() - self._start > GROWTH


def read(size: int) -> bytearray:
    """Raises EOFError at the end of stdin."""
    frame = bytearray(size)
    view = memoryview(frame)
    while view:
        count = os.readv(0, [view])
        if not count:
            raise EOFError
        view = view[count:]
    return frame


def write(frame: bytes) -> None:
    view = memoryview(len(frame).to_bytes(4) + frame)
    while view:
        view = view[os.write(1, view) :]


def settle() -> None:
    """Signals that end the server must not end its renderer first; SIGPROF must, whatever the server does with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    os.close(2)  # from here on a message could hold what tenants wrote
    os.open(os.devnull, os.O_WRONLY)


def warmed() -> Templates:
    """With all loaded that Jinja loads at first use, and the stack grown as far as Python lets it grow: within the
    memory limit it might find no room."""
    templates = Templates()
    with contextlib.suppress(RecursionError):
        json.loads("[" * 100_000)
    with contextlib.suppress(RecursionError):
        rendered(templates.compiled("{% macro m() %}{{ 'a' }}{{ m() }}{% endmacro %}{{ m() }}").template, {})
    gc.collect()
    gc.freeze()
    return templates


def main() -> None:
    settle()
    templates = warmed()
    limits = Limits()
    write(encoded(Answer()))  # ready
    while True:
        size = int.from_bytes(read(4))
        with limits.request():
            answer = answered(templates, read(size))
        answer.last = answer.last or limits.outgrown()
        write(encoded(answer))
        if answer.last:
            return


if __name__ == "__main__":
    try:
        main()
    except MemoryError:
        os._exit(EXIT_MEMORY)
    except (EOFError, BrokenPipeError):
        os._exit(0)
