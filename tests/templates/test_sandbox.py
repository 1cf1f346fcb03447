"""What templates must not reach or change. Runs in this process: the kernel's limits are not needed for it."""

import types

import jinja2
import pytest

from proxy.templates import worker
from tests.templates.test_worker import answer, problem

ESCAPES = """
''.__class__.__mro__[1].__subclasses__()
().__class__.__bases__[0].__subclasses__()
[].__class__.__base__
{}.__class__.__init__.__globals__
''['__class__']
''|attr('__class__')
''|attr('__cl' ~ 'ass__')
''|attr('\\x5f\\x5fclass\\x5f\\x5f')
['']|map(attribute='__class__')|list|first
['']|map('attr', '__class__')|list|first
['']|groupby('__class__')|list|first|first
['']|sum(attribute='__class__', start='')
['']|map(attribute='__class__.__mro__')|list|first
'{0.__class__}'.format('')
'{0.__class__.__mro__[1]}'.format('')
'{x.__class__}'.format_map({'x': ''})
'{0[__class__]}'.format('')
('{0.__class__}'|e).format('')
''|attr('format')
('{0.__class__}'|attr('format'))('')
'{0.__globals__}'.format(len)
'{0.__globals__}'.format(dump_json)
['{0.__class__}'.format]|map('call')|list
str.format('{0.__class__}', '')
str.mro()
str.__subclasses__()
dict.mro()
dict.__base__
dict.fromkeys([1])
int.from_bytes
float.fromhex
list.append
list.__class__
range.__globals__
range.__init__
cycler.__init__.__globals__.os.popen('id').read()
joiner.__init__.__globals__.os
namespace.__init__.__globals__
lipsum.__globals__.os.popen('id').read()
self.__init__.__globals__.__builtins__
self._TemplateReference__context.environment
self.__class__.__mro__
loop.__class__
load_json.__globals__
load_yaml.__defaults__
dump_json.__code__
dump_json.__closure__
str.__closure__[0].cell_contents
zip.__code__.co_consts
len.__self__.__import__('os')
max.__self__.open('/etc/passwd').read()
search_regex('a', 'a').re.__class__
search_regex('a', 'a').__class__
load_json('{}').__class__
([1]|map('upper')).gi_frame.f_globals
([1]|map('upper')).gi_code
([1]|map('upper')).gi_frame.f_back.f_back
([1]|map('upper')).throw
([1]|map('upper')).send
namespace(a=1).__class__.__init__.__globals__
namespace(a=1)._Namespace__attrs
cycler(1).__init__.__globals__
cycler(1).next.__func__.__globals__
cycler(1).next.__self__
cycler(1)._x
missing.__class__.__init__.__globals__
missing._fail_with_undefined_error.__globals__
missing|attr('_undefined_exception')
x.__globals__
caller.__class__
config.items()
request.application.__globals__
url_for.__globals__
get_flashed_messages.__globals__
__builtins__
__import__('os').popen('id').read()
open('/etc/passwd').read()
eval('1')
exec('1')
globals()
getattr('', '__class__')
vars()
type('')
object
""".strip().splitlines()


@pytest.mark.parametrize("expression", ESCAPES)
@pytest.mark.parametrize(
    "around", ["{{ %s }}", "{%% set y = %s %%}{{ y }}", "{%% for y in [%s] %%}{{ y }}{%% endfor %%}"]
)
def test_a_known_escape_reaches_nothing(around: str, expression: str) -> None:
    given = answer("{% macro x() %}{% endmacro %}" + around % expression)
    assert given.problem or not given.text


HELD = """
cycler(1) joiner() namespace(a=1) missing '' ''|e 1 1.5 true b [] () {} range(1) [1]|map('upper') [1]|batch(2)
[1]|reverse [1]|groupby('real')|first {}.items() ''.join ''.format ''.encode() {}.keys()-[] search_regex('a','a')
search_regex('a','a').re load_yaml('a') loop self self.b m caller varargs kwargs
"""
FORBIDDEN = (type, types.ModuleType, types.CodeType, types.FrameType, types.TracebackType, jinja2.Environment)


def test_no_path_of_attributes_leads_out() -> None:
    """From all names, and from each kind of value that a template can hold, by every attribute there is."""
    env = worker.environment()
    found: list[object] = list(env.globals.values())
    held = "".join(f"{{% if hold({one}) %}}{{% endif %}}" for one in HELD.split())
    around = "{%% macro m() %%}%s{%% endmacro %%}{%% for _ in [1] %%}%s{%% endfor %%}{%% block b %%}{%% endblock %%}"
    env.from_string(around % (held, held) + "{% call m() %}{% endcall %}").render(b=b"", hold=found.append)
    seen: set[type] = set()
    while found:
        one = found.pop()
        assert not isinstance(one, FORBIDDEN)
        if type(one) not in seen:
            seen.add(type(one))
            found += [env.getattr(one, name) for name in dir(one)]
    assert len(seen) > 30


@pytest.mark.parametrize(
    "change",
    [
        "{{ v.append(1) }}", "{{ v.clear() }}", "{{ v['pop']() }}", "{{ (v|attr('sort'))() }}", "{{ d.update(a=2) }}",
        "{{ d.pop('a') }}", "{{ d.setdefault('b', 1) }}", "{% set d.a = 2 %}", "{% set len.x = 1 %}",
        "{{ d.__setitem__('a', 2) }}", "{% set d['a'] = 2 %}",
    ],
)  # fmt: skip
def test_values_are_not_changed(change: str) -> None:
    assert problem(change, v=[1], d={"a": 1})


POISONS = [
    "{% set len = 1 %}{% set x = 1 %}{% macro range() %}{% endmacro %}",
    "{{ cycler.reset(range) }}",
    "{{ cycler.reset(len) }}{{ cycler.next(namespace(items=[1], pos=0)) }}",
    "{{ dict.update(namespace, a=1) }}",
    "{% set namespace.x = 1 %}",
    "{{ load_json('{}').update(a=1) }}",
    "{{ load_yaml('%TAG ! tag:x,2000:\\n--- a') }}",
    "{% set ns = namespace(x=1) %}{% set ns.x = 2 %}",
    "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "{% block x %}1{% endblock %}",
]
PROBE = """{{ x }}|{{ ns }}|{{ len([1]) }}|{{ range.pos }}|{{ len.pos }}|{{ range(2)|list }}|{{ '<' }}|{{ self.x }}
{%- set c = cycler(1, 2) %}{{ c.next() }}{{ load_json('{}') }}|{{ namespace.x }}"""


def test_nothing_of_a_render_is_left_for_the_next() -> None:
    templates = worker.Templates()
    before = answer(PROBE, templates)
    assert before.text == "||1|||[0, 1]|<|1{}|"
    for poison in POISONS:
        answer(poison, templates)
        assert answer(PROBE, templates) == before
    assert answer(PROBE) == before
