"""YAML text -> frozen dataclasses; every problem names the key, its line and the nearest valid key.

`${NAME}` and `${NAME:-default}` expand inside values. Which keys there are is config.py's.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from proxy.errors import BadConfig

_ODD = re.compile(r"[^\w<-].*", re.DOTALL)
"""What is no part of any key's name, and may be one's value."""
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def sections(text: str, env: Mapping[str, str]) -> dict[str, Any]:
    """The top level of a YAML text, values expanded from `env` and typed as YAML types them."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        reader = _Reader(env)
        given = {} if root is None else reader.mapping(root, "")
        return {name: reader.section(name, node) for name, node in given.items()}
    except (yaml.YAMLError, RecursionError) as exc:
        raise BadConfig(f"the configuration is not YAML: {_problem(exc)}") from exc


class _Reader:
    """Turns YAML nodes into plain values that remember their lines, expanding variables."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env

    def mapping(self, node: yaml.Node, where: str) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise BadConfig(f"{where or 'the configuration'} must be a mapping{_line(node)}")
        out: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise BadConfig(f"a key in {where or 'the configuration'} must be a word{_line(key)}")
            if key.value in out:
                raise BadConfig(f"{key.value} stands twice in {where or 'the configuration'}{_line(key)}")
            out[str(key.value)] = value
        return out

    def section(self, name: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return _Lined({key: self.section(key, value) for key, value in self.mapping(node, name).items()}, node)
        if isinstance(node, yaml.SequenceNode):
            return [self.section(name, item) for item in node.value]
        return self.scalar(node)

    def scalar(self, node: yaml.Node) -> Any:
        text = str(node.value)
        expanded = _VARIABLE.sub(lambda found: self.variable(found, node), text)
        if expanded == text:
            return _constructed(node)
        return _plain(expanded) if getattr(node, "style", None) is None else expanded

    def variable(self, found: re.Match[str], node: yaml.Node) -> str:
        value = self.env.get(found[1]) or found[2]
        if value is None:
            raise BadConfig(f"${{{found[1]}}}{_line(node)} is not set; set it or write ${{{found[1]}:-default}}")
        return value


class _Lined(dict[str, Any]):
    """A mapping of the file that knows where each key comes from: its line, or the variable that overrides it."""

    def __init__(self, values: dict[str, Any], node: yaml.MappingNode) -> None:
        super().__init__(values)
        self.places = {str(key.value): f"line {key.start_mark.line + 1}" for key, _ in node.value}


def _line(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})"


def _problem(exc: Exception) -> str:
    """What YAML's reader found wrong, and where, without the text around it: that may be a key."""
    mark = getattr(exc, "problem_mark", None)
    said = (getattr(exc, "problem", None) if mark else str(exc).partition("\n")[0]) or "it cannot be read"
    said = re.sub(r"""(['"])(?!<)[^'"\s]{4,}\1""", "'...'", said)
    return f"{said} (line {mark.line + 1}, column {mark.column + 1})" if mark else said


def _constructed(node: yaml.Node) -> Any:
    """The value of a scalar, typed as YAML would."""
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (ValueError, AttributeError, LookupError, TypeError) as exc:  # what PyYAML lets through for !!int x
        raise BadConfig(f"a value is not of the type that it looks like{_line(node)}; put it in quotes") from exc


def _plain(text: str) -> Any:
    """A value from the environment, typed as YAML would."""
    try:
        return yaml.safe_load(text) if text else text
    except (yaml.YAMLError, ValueError):
        return text


def override(values: dict[str, Any], env: Mapping[str, str]) -> None:
    for name, text in env.items():
        if not name.startswith("PROXY_") or "__" not in name:
            continue
        section, key = name[len("PROXY_") :].lower().split("__", 1)
        at = values[section] = values.get(section) or {}
        if not isinstance(at, dict):
            raise BadConfig(f"{name} cannot override {section}, which is a list; write it into the configuration file")
        at[key] = _plain(text)
        getattr(at, "places", {})[key] = name


def build(kind: type[Any], values: Any, where: str) -> Any:
    """A frozen dataclass from a mapping; every problem names the key, its line and the nearest valid key."""
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise BadConfig(f"{where} must be a mapping of keys")
    hints = get_type_hints(kind)
    places = getattr(values, "places", {})
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else key
        at = f" ({places[key]})" if key in places else ""
        if key not in hints:
            shown = name.removesuffix(key) + _ODD.sub("...", key, count=1)  # api_key:sk-1, where a space is missing
            raise BadConfig(f"unknown key {shown}{at}{_nearest(key, hints)}")
        out[key] = _typed(hints[key], value, name, at)
    return kind(**out)


def _nearest(key: str, valid: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, list(valid), n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else f"; valid keys: {', '.join(valid)}"


def _typed(hint: Any, value: Any, name: str, at: str) -> Any:
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, name)
    if origin is tuple:
        if not isinstance(value, list):
            raise BadConfig(f"{name} must be a list{at}")
        return tuple(_typed(get_args(hint)[0], item, f"{name}[{n}]", at) for n, item in enumerate(value))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value or {}, dict):
            raise BadConfig(f"{name} must be a mapping{at}")
        value = value or {}
        return {key: _typed(get_args(hint)[1], item, f"{name}.{key}", at) for key, item in value.items()}
    if origin is Literal:
        choice = "null" if value is None and "null" in get_args(hint) else value
        if choice not in get_args(hint):
            raise BadConfig(f"{name} must be one of {', '.join(map(str, get_args(hint)))}{at}")
        return choice
    if origin in (types.UnionType, typing.Union):
        inner = next(kind for kind in get_args(hint) if kind is not type(None))
        return None if value is None else _typed(inner, value, name, at)
    return _scalar(hint, value, name, at)


def _scalar(hint: type, value: Any, name: str, at: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is str and value is None:
        return ""
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise BadConfig(f"{name} must be {_NAMES.get(hint, hint.__name__)}{at}")
    if isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value < math.inf:
        raise BadConfig(f"{name} must be a number from 0 on{at}")
    if value == 0 and name.rpartition(".")[2] in _POSITIVE and not isinstance(value, bool):
        raise BadConfig(f"{name} must be more than 0{at}")
    return value


_POSITIVE = frozenset(
    {
        "workers", "max_body_mb", "body_timeout_s", "send_timeout_s", "connect_timeout_s", "first_byte_timeout_s",
        "idle_timeout_s", "total_timeout_s", "max_connections", "context_tokens", "token_budget",
        "messages_per_request", "nesting", "choices", "answer_mb", "prompt_mb", "concurrent_requests",
        "num_search_messages", "max_query_length", "summary_max_tokens",
    }
)  # fmt: skip
_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
