"""What a template can do and what it cannot: in this process where that is safe, else in one of its own."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.templates import renderer, worker

SECRET = "k3y-0f-4da"
PERSON = {"name": SECRET, "list": [1, 2], "dict": {"a": 1}, "no": None}


def framed(source: str, variables: bytes = b"{}", check: bool = False) -> bytes:
    return json.dumps({"source": source, "check": check}).encode() + b"\n" + variables


def answer(source: str, /, templates: worker.Templates | None = None, **variables: Any) -> worker.Answer:
    frame = bytearray(framed(source, json.dumps(variables).encode()))
    return worker.answered(templates or worker.Templates(), frame)


def text(source: str, /, **variables: Any) -> str:
    given = answer(source, **variables)
    assert not given.problem
    return given.text


def problem(source: str, /, **variables: Any) -> str:
    given = answer(source, **variables)
    assert given.problem
    return f"{given.line}: {given.problem}"


# --- what it offers ---

OFFERED = {
    "{{ 'a' ~ NEWLINE ~ 'b' }}": "a\nb",
    "{{ null is none }} {{ none }} {{ true }} {{ null }}": "True None True None",
    "{{ len([1, 2]) }} {{ sum([1, 2]) }} {{ min(3, 2) }} {{ max([3, 2]) }} {{ round(2.345, 2) }}": "2 3 2 3 2.35",
    "{{ str(1) ~ int('2') }} {{ int('ff', 16) }} {{ float('1.5') }} {{ bool('') }} {{ bool(1) }}": "12 255 1.5 False "
    "True",
    "{{ list('ab') }} {{ any([0, 1]) }} {{ all([0, 1]) }} {{ dict(a=1) }}": "['a', 'b'] True False {'a': 1}",
    "{% for a, b in zip([1, 2], 'xy') %}{{ a }}{{ b }} {% endfor %}": "1x 2y ",
    "{% for i, a in enumerate('xy', 1) %}{{ i }}{{ a }} {% endfor %}": "1x 2y ",
    "{{ range(3)|list }} {% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}": "[0, 1, 2] aba",
    "{% set j = joiner('-') %}{% for i in [1, 2] %}{{ j() }}{{ i }}{% endfor %}": "1-2",
    "{% set n = namespace(x=0) %}{% for i in [1, 2] %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}": "3",
    """{{ load_json('{"a": [1, "é"]}').a[1] }}""": "é",
    "{{ dump_json({'a': 'é', 'b': [1, none]}) }}": '{"a": "é", "b": [1, null]}',
    "{{ dump_json([1], indent=1) }}": "[\n 1\n]",
    "{{ load_yaml('a: [1, yes, 2020-01-02, x]') }}": "{'a': [1, True, '2020-01-02', 'x']}",
    "{{ load_yaml('{a: &x {k: 1}, b: {<<: *x, j: 2}}').b.k }}": "1",
    "{{ dump_yaml({'b': ['é', 1], 'a': 'x'|e}) }}": "b:\n- é\n- 1\na: x\n",
    "{{ search_regex('b+', 'abbc').group(0) }} {{ search_regex('x', 'a') }}": "bb None",
    "{{ match_regex('a.', 'ab') }} {{ match_regex('a', 'ab') }}": "True False",
    "{{ '\\N{BULLET}\\x41' }} {{ {'b': 1, 'a': '<'}|tojson }}": '•A {"a": "\\u003c", "b": 1}',
    "{{ missing }}|{{ missing.x if missing }}|{{ person.none }}|{{ missing|default('d') }}": "|||d",
    "{% for u in missing %}{{ u }}{% else %}nobody{% endfor %}": "nobody",
    "{% if true %}\n  a\n  {% endif %}\nb": "  a\nb",
    "<{{ '&' }}>": "<&>",
}


@pytest.mark.parametrize("source", OFFERED)
def test_it_offers_what_the_manual_says(source: str) -> None:
    assert text(source, person=PERSON) == OFFERED[source]


def test_it_tells_the_variables_that_are_read() -> None:
    source = (
        "{% set a = 1 %}{{ a }}{{ b.c }}{% for d in e %}{{ d }}{{ loop.index }}{% endfor %}{{ len(f) }}{{ self.x }}"
    )
    assert answer(source, b={}).names == ["b", "e", "f"]


@pytest.mark.parametrize(
    "source", ["{{ lipsum() }}", "{{ [1]|random }}", "{{ now() }}", "{{ [1]|map('random')|list }}"]
)
def test_there_is_no_chance_and_no_clock(source: str) -> None:
    assert re.search("is undefined|No filter named", problem(source))


@pytest.mark.parametrize("of", ["!!timestamp 2020-01-02", "!!set {a, b}", "!!binary YQ==", "!!python/name:os.system"])
def test_yaml_knows_the_types_of_json_only(of: str) -> None:
    assert problem("{{ load_yaml(of) }}", of=of) == "1: ConstructorError; check the values that are used here"


# --- what it says when it fails ---

SAID = {
    "a\n{{ agnt.x }}": "2: 'agnt' is undefined; variables: person, other",
    "{{ agnt() }}": "1: 'agnt' is undefined; variables: person, other",
    "\n\n{{ person.x.y }}": "3: 'dict object' has no attribute 'x'",
    "{{ person.list[7].y }}": "1: list object has no element 7",
    "{{ person.no.x.y }}": "1: 'None' has no attribute 'x'",
    "{{ }": "1: unexpected '}'",
    "a\n{{ } }}": "2: unexpected '}'",
    "{% for %}": "1: Expected an expression, got 'end of statement block'",
    "{{ 1|nope }}": "1: No filter named 'nope'.",
    "{% nope %}": "1: Encountered unknown tag 'nope'.",
    "\n{{ 1 // 0 }}": "2: ZeroDivisionError; check the values that are used here",
    "{{ person.name + 1 }}": "1: TypeError; check the values that are used here",
    "{{ ''.__class__.x }}": "1: access to attribute '__class__' of 'str' object is unsafe.",
    "\n{% include 'x' %}": f"2: {worker.ALONE}",
    "{% extends person.name %}": f"1: {worker.ALONE}",
    "{% import 'x' as x %}{% from 'x' import y %}": f"1: {worker.ALONE}",
    "a\n{% macro m() %}{{ m() }}{% endmacro %}\n{{ m() }}": f"2: {worker.TOO_DEEP}",
    "{% block a %}{{ self.a() }}{% endblock %}": f"1: {worker.TOO_DEEP}",
    "{{ " + "[" * 3000 + "]" * 3000 + " }}": f"0: {worker.TOO_DEEP}",
    "{{ load_json('[' * 99999) }}": f"1: {worker.TOO_DEEP}",
    "{{ load_yaml('[' * 2000) }}": f"1: {worker.TOO_DEEP}",
    "{% for a in b %}" * 21 + "{% endfor %}" * 21: "0: more than 20 loops or 100 blocks inside one another, or a macro "
    "with two parameters of one name",
    "{{ 10**5000 }}": "0: ValueError; check the values that are used here",
    "{{ int('9' * 5000) }}": "1: ValueError; check the values that are used here",
    "{{ range(100001) }}": "1: OverflowError; check the values that are used here",
    "\n{{ [1]|map('upper') }}": "2: a function or a generator is printed; add () or |list",
    "{{ len }}": "1: a function or a generator is printed; add () or |list",
    "a\n{{ 'x' * 300000 }}": f"0: {worker.TOO_LARGE}",
    "{{ 'é' * 200000 }}": f"0: {worker.TOO_LARGE}",
}


@pytest.mark.parametrize("source", SAID, ids=lambda source: source[:40])
def test_a_message_names_the_line_and_the_cause(source: str) -> None:
    assert problem(source, person=PERSON, other=1) == SAID[source]


def test_the_output_is_limited_in_bytes() -> None:
    assert len(text("{{ 'x' * 262144 }}")) == 262144
    assert len(text("{{ 'é' * 131072 }}")) == 131072


def test_a_long_list_of_variables_is_cut() -> None:
    told = problem("{{ x.y }}", **{f"v{n}": n for n in range(50)})
    assert told.endswith("v28, v29, ...")


@pytest.mark.parametrize(
    "source",
    [
        "{{ other[person.name].x }}",
        "{{ other.a[person.name].x }}",
        "{{ person.list[person].x }}",
        "{{ [1]|map(person.name)|list }}",
        "{{ [1]|select(person.name)|list }}",
        "{{ namespace(unsafe_callable=true, x=person.name)() }}",
        "{{ int(person.name) }}",
        "{{ load_json(person.name) }}",
        "{{ load_yaml(person.name ~ ': [') }}",
        "{{ person.name.nope() }}",
        "{{ person.name|attr(person.name)|length }}{{ (person.name|attr(person.name)).x }}",
        "{{ (other|attr(person.name)).x }}",
        "{{ search_regex(person.name ~ '(', '') }}",
        "{{ person.name.encode(person.name) }}",
        "{{ '%d'|format(person.name) }}",
        "{{ '{x}'.format(**{person.name: 1}) }}",
        "{{ dict(a=1)|dictsort(by=person.name) }}",
        "{{ 1|round(method=person.name) }}",
        "{{ cycler(**{person.name: 1}) }}",
        "{% set m = 1 %}{{ m(person.name) }}",
    ],
)
def test_a_message_never_holds_a_value(source: str) -> None:
    assert SECRET not in problem(source, person=PERSON, other={"a": {}})


# --- the process ---


@contextmanager
def process() -> Generator["subprocess.Popen[bytes]"]:
    """The program as the product starts it, ready."""
    command = [sys.executable, *renderer.OPTIONS, renderer.WORKER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, env=renderer.ENVIRONMENT) as started:
        assert received(started) == {}
        yield started
        started.kill()


def send(to: "subprocess.Popen[bytes]", frame: bytes) -> None:
    assert to.stdin is not None
    to.stdin.write(len(frame).to_bytes(4) + frame)


def received(of: "subprocess.Popen[bytes]") -> dict[str, Any]:
    assert of.stdout is not None
    return json.loads(of.stdout.read(int.from_bytes(of.stdout.read(4))))


def asked(to: "subprocess.Popen[bytes]", source: str, variables: bytes = b"{}") -> dict[str, Any]:
    send(to, framed(source, variables))
    return received(to)


def leave(it: "subprocess.Popen[bytes]") -> None:
    assert it.stdin is not None
    it.stdin.close()


def terminate(it: "subprocess.Popen[bytes]") -> None:
    it.terminate()
    it.send_signal(signal.SIGINT)
    assert asked(it, "a") == {"text": "a"}
    leave(it)


def break_off(it: "subprocess.Popen[bytes]") -> None:
    assert it.stdin is not None
    it.stdin.write(b"\0\0\1")
    leave(it)


def hang_up(it: "subprocess.Popen[bytes]") -> None:
    assert it.stdout is not None
    it.stdout.close()
    send(it, framed("a"))


@pytest.mark.parametrize("how", [leave, terminate, break_off, hang_up])
def test_the_process_ends_with_its_pipes_and_not_before(how: Callable[["subprocess.Popen[bytes]"], None]) -> None:
    with process() as it:
        how(it)
        assert it.wait(10) == 0


def test_the_process_can_open_nothing_and_holds_nothing() -> None:
    with process() as it:
        folder = Path(f"/proc/{it.pid}")
        limits = dict(re.findall(r"^Max (.+?)  +(\S+) ", (folder / "limits").read_text(), re.M))
        assert [limits[name] for name in ("open files", "file size", "core file size", "processes")] == ["0"] * 4
        assert limits["address space"].isdigit()
        assert (folder / "environ").read_bytes() == b"PYTHONHASHSEED=0\0"
        opened = {int(file.name): str(file.readlink()) for file in (folder / "fd").iterdir()}
        assert [opened[number] for number in sorted(opened)][2:] == ["/dev/null", f"{folder}/statm"]


def test_every_filter_runs_without_opening_a_file() -> None:
    with process() as it:
        for name in worker.environment().filters:
            for value in ("'a b'", "{'a': 1}", "[1]", "1.5"):
                assert not re.search("OSError|ImportError", asked(it, f"{{{{ {value}|{name} }}}}").get("problem", ""))


def test_two_processes_print_the_same() -> None:
    source = "{{ ({'a': 1, 'b': 2, 'c': 3, 'd': 4}.keys() - ['d'])|list }}"
    with process() as one, process() as other:
        assert asked(one, source) == asked(other, source)


def test_a_process_that_has_grown_ends_after_its_answer() -> None:
    """Each of these is compiled to 4 MB, which no later template shall miss."""
    with process() as it:
        grown = (asked(it, "{% if a == '" + f"{n} ' * 2000000 %}}{{% endif %}}") for n in range(100))
        assert next(given for given in grown if given.get("last")) == {"names": ["a"], "last": True}
        assert it.wait(10) == 0
