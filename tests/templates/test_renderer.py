"""What the renderer gives and refuses, by its real process; test_deaths.py has what becomes of that."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import BadRequest
from proxy.templates.renderer import KEPT, KEPT_BYTES, Kept, Rendered, Renderer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def renderer() -> AsyncGenerator[Renderer]:
    made = Renderer()
    yield made
    await made.aclose()


async def text(renderer: Renderer, source: str, variables: bytes = b"{}") -> str:
    return (await renderer.render(source, variables)).text


async def refused(renderer: Renderer, source: str, variables: bytes = b"{}") -> str:
    with pytest.raises(BadRequest) as caught:
        await renderer.render(source, variables)
    assert (caught.value.param, caught.value.code) == ("system_template", "template_error")
    return caught.value.message


# --- what it gives ---


async def test_it_gives_the_text_and_the_names(renderer: Renderer) -> None:
    source = "You are {{ agent.name }}.{% for doc in docs %} {{ doc }}{% endfor %}"
    rendered = await renderer.render(source, b'{"agent": {"name": "Ada"}, "docs": ["a", "b"]}')
    assert rendered == Rendered("You are Ada. a b", frozenset({"agent", "docs"}))
    assert await renderer.check(source) == {"agent", "docs"}
    assert await renderer.check("{{ agnt.x }}") == {"agnt"}


async def test_a_message_names_place_line_and_cause(renderer: Renderer) -> None:
    known = b'{"agent": {}, "user": null}'
    assert await refused(renderer, "a\n\n{{ agnt.name }}", known) == (
        "system_template, line 3: 'agnt' is undefined; variables: agent, user"
    )
    with pytest.raises(BadRequest) as caught:
        await renderer.check("{{ } }}", "metadata.template")
    assert caught.value.message == "metadata.template, line 1: unexpected '}'"
    assert caught.value.param == "metadata.template"


VALUES = [b"[]", b"", b"{", b"\n\n", b'{"a": 1}\n{"a": 2}', b"1", b'{"a": ' + b"[" * 100_000]


@pytest.mark.parametrize("variables", VALUES, ids=range(len(VALUES)))
async def test_variables_that_are_no_object_are_refused(renderer: Renderer, variables: bytes) -> None:
    assert (await refused(renderer, "{{ a }}", variables)).startswith("system_template: ")
    assert await text(renderer, "{{ a }}", b'{"a": 1}') == "1"


TEXTS = {
    "{{ a }}é\0 \U0001f600": (b'{"a": "\\u0000\\ud83d\\ude00"}', "\0\U0001f600é\0 \U0001f600"),
    "{{ a }}": (rb'{"a": "x\ud800y\udc00"}', "x\ufffdy\ufffd"),
    "{{ '\\ud800' }}{{ a }}": (b'{"a": "\xff"}', "\ufffd\ufffd"),
    "{{ a|length }}{{ '\\ud83d' ~ '\\ude00' }}": (rb'{"a": "\ud83d"}', "1\U0001f600"),
    "{{ len }}{{ b }}": (b'{"self": 1, "len": "x", "": 2, "a b": 3}', "x"),
    "": (b"{}", ""),
    "{{ a }}\r\n{{ a }}\n": (b'{"a": 12345678901234567890123}', "12345678901234567890123\n12345678901234567890123"),
}


@pytest.mark.parametrize("source", TEXTS)
async def test_any_character_comes_through(renderer: Renderer, source: str) -> None:
    variables, expected = TEXTS[source]
    assert await text(renderer, source, variables) == expected


async def test_half_a_surrogate_pair_in_a_template_is_refused(renderer: Renderer) -> None:
    assert (await refused(renderer, "a\n\ud800")).startswith("system_template, line 2: half a surrogate pair")


async def test_a_long_template_and_many_variables_are_x(renderer: Renderer) -> None:
    assert await refused(renderer, "é" * 33_000) == "system_template: has 66,000 bytes, the limit is 65,536; shorten it"
    with pytest.raises(BadRequest):
        await renderer.check("x" * 65_537)
    assert (await refused(renderer, "", b" " * (16 << 20) + b" ")).startswith("system_template: its variables take")
    assert len(await text(renderer, "x" * 65_536)) == 65_536


async def test_variables_of_megabytes_are_rendered(renderer: Renderer) -> None:
    assert await text(renderer, "{{ a|length }}", b'{"a": "' + b"x" * (8 << 20) + b'"}') == str(8 << 20)


# --- limits ---

CPU = "system_template: took more than 0.5 s of CPU; loop over less"
MEMORY = "system_template: took more than 64 MB of memory; build smaller values"
OUTPUT = "system_template: printed more than 256 KB of output; print less"
DEEP = "nested too deeply"
GROW = "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
LAUGHS = "\\n".join(f"{b}: &{b} [{','.join('*' + a if a else 'x' for _ in range(9))}]" for a, b in zip(
    ["", *"abcdefgh"], "abcdefghi", strict=True))  # fmt: skip
EXHAUSTING = {
    "{{ 2**10000000000 }}": CPU,
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": CPU,
    "{{ search_regex('(a+)+$', 'a' * 50 ~ 'b') }}": CPU,
    "{{ sum([[1] * 1000] * 100000, [])|length }}": CPU,
    "{% if 3**99999999 %}{% endif %}": CPU,
    "{{ load_yaml('- a\\n' * 1000000)|length }}": CPU,
    "{{ 'a' * 10**9 }}": MEMORY,
    "{{ ''|center(10**9) }}": MEMORY,
    "{{ '%1000000000d'|format(1) }}": MEMORY,
    "{{ '{:>1000000000}'.format(1) }}": MEMORY,
    "{{ [1] * 10**9 }}": MEMORY,
    "{{ (1).to_bytes(10**9) }}": MEMORY,
    "{{ [1]|batch(10**9, 'x')|list }}": MEMORY,
    GROW: MEMORY,
    "{{ load_yaml('" + LAUGHS + "') }}": f"{CPU}|{MEMORY}",
    "{{ 'x' * 300000 }}": OUTPUT,
    "{% for i in range(99999) %}xxx{% endfor %}": OUTPUT,
    "{% macro m() %}x{{ m() }}{% endmacro %}{{ m() }}": f"system_template, line 1: {DEEP}",
    "{{ " + "(" * 9999 + ")" * 9999 + " }}": f"system_template: {DEEP}",
    "{% set n = namespace(x=1) %}{% for i in range(9999) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}": DEEP,
    "{{ search_regex('(' * 9999, '') }}": DEEP,
    "{{ lipsum(100000) }}": "system_template, line 1: 'lipsum' is undefined",
}


@pytest.mark.parametrize("source", EXHAUSTING, ids=range(len(EXHAUSTING)))
async def test_a_template_that_takes_too_much_is_ended_and_the_next_one_runs(renderer: Renderer, source: str) -> None:
    told = await refused(renderer, source)
    assert any(part in told for part in EXHAUSTING[source].split("|"))
    assert await text(renderer, "{{ a }}", b'{"a": 1}') == "1"


async def test_what_compiles_too_long_is_refused_by_check_too(renderer: Renderer) -> None:
    with pytest.raises(BadRequest) as caught:
        await renderer.check("{% if 2**10000000000 %}{% endif %}")
    assert caught.value.message == CPU
    assert await renderer.check("{{ a }}") == {"a"}


async def test_the_memory_of_one_template_is_not_taken_from_the_next(renderer: Renderer) -> None:
    for n in range(6):
        assert await text(renderer, "{{ ('a' * (40000000 + n))|length }}", b'{"n": %d}' % n) == str(40_000_000 + n)


# --- what it keeps ---


def test_little_is_kept_and_the_oldest_goes_first() -> None:
    kept = Kept()
    short, long = Rendered("a", frozenset({"b"})), Rendered("a" * 250_000, frozenset())
    for n in range(KEPT):
        kept.put(b"%d" % n, short)
    assert kept.get(b"0") == short
    kept.put(b"new", short)
    assert (kept.get(b"0"), kept.get(b"1"), kept.get(b"new")) == (short, None, short)
    for n in range(100):
        kept.put(b"long %d" % n, long)
        assert kept.size <= KEPT_BYTES
    assert (kept.get(b"0"), kept.get(b"long 99")) == (None, long)
    kept.put(b"", short)
    assert kept.get(b"") is None


async def test_a_render_is_kept_by_template_and_variables(renderer: Renderer) -> None:
    given = [("{{ a }}", b'{"a":1}'), ("{{ a }}", b'{"a":2}'), ("{{ a }}{", b'"a":1}'), ("{{ a }}", b"{}")]
    first = [await asyncio.gather(renderer.render(*one), return_exceptions=True) for one in given]
    again = [await asyncio.gather(renderer.render(*one), return_exceptions=True) for one in given]
    assert [one.text if isinstance(one, Rendered) else type(one) for (one,) in first] == ["1", "2", BadRequest, ""]
    assert [a is b for (a,), (b,) in zip(first, again, strict=True)] == [True, True, False, True]
    assert await renderer.check("{{ a }}") is await renderer.check("{{ a }}")


# --- anything else ---

SOME = """
a b.c b['c'] missing x.y 1 0 -1.5 '' 'é\\n' [] {} [1,a] (1,) {'k':b} true null len range(5) dict(a=1) loop self m()
caller namespace(x=1) cycler(1,2).next() dump_json(b) load_json('[1]') str(a) int('9') search_regex('a','a')
"""
FILTERS = "upper length list first join tojson int sum sort e string map('upper') d('x') batch(2)"
OPERATORS = "+ - * / // % ~ == < in and or is"
EXPRESSIONS = st.recursive(
    st.sampled_from(SOME.split()),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(OPERATORS.split()), inner).map(" ".join),
        st.tuples(inner, st.sampled_from(FILTERS.split())).map("|".join),
        inner.map("({})".format),
        inner.map("not {}".format),
        st.tuples(inner, inner).map("{0[0]}[{0[1]}]".format),
        inner.map("{}.__class__".format),
    ),
    max_leaves=5,
)
TEMPLATES = st.recursive(
    st.one_of(EXPRESSIONS.map("{{{{ {} }}}}".format), st.text(max_size=8), st.text("{}%#- \n'\"|ab", max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map("".join),
        st.tuples(EXPRESSIONS, inner).map("{{% if {0[0]} %}}{0[1]}{{% endif %}}".format),
        st.tuples(EXPRESSIONS, inner).map("{{% for a in {0[0]} %}}{0[1]}{{% endfor %}}".format),
        st.tuples(EXPRESSIONS, inner).map("{{% set x = {0[0]} %}}{0[1]}".format),
        inner.map("{{% macro m() %}}{}{{% endmacro %}}{{{{ m() }}}}".format),
        inner.map("{{% raw %}}{}{{% endraw %}}".format),
    ),
    max_leaves=6,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abck", max_size=2), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def lasting() -> Generator[Renderer]:
    """One for many loops, which it serves one after the other."""
    made = Renderer()
    yield made
    asyncio.run(made.aclose())


@settings(max_examples=250, deadline=None)
@given(source=TEMPLATES, variables=st.dictionaries(st.sampled_from("abx"), JSON))
async def test_whatever_is_given_is_rendered_or_refused(lasting: Renderer, source: str, variables: dict) -> None:
    encoded = json.dumps(variables).encode()
    try:
        rendered = await lasting.render(source, encoded)
    except BadRequest as exc:
        assert exc.message.startswith("system_template")
    else:
        assert await lasting.check(source) == rendered.names
    assert (await lasting.render("{{ a }}{{ b }}", b'{"a": %d}' % len(source))).text == str(len(source))
