"""Request -> which session, with which options. Pure: headers and fields in, a name and options out."""

import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from proxy.config import Sessions
from proxy.edge.body import Fields, parsed
from proxy.errors import BadRequest
from proxy.types import Mode, Options, Overflow

MODES = ("auto", "append", "resend", "observe")
OVERFLOWS = ("adaptive", "summarize", "truncate", "null")
LATER = ("auto_run_tools",)
"""Options of the contract that this version does not carry out: refused, so that nobody relies on them in vain."""
OURS = ("session", "conversation", "session_id")
"""Body keys that never reach an upstream."""


class Identity(msgspec.Struct, frozen=True, gc=False):
    """The session a request names, and the header that named it (None: the body did)."""

    name: str
    header: str | None


def session_of(config: Sessions, headers: dict[bytes, bytes], fields: Fields) -> Identity | None:
    """The header > body `session` > body `conversation` > alias headers > `metadata.session_id` > none.

    None means stateless. Raises BadRequest for a name that is not 1 to 256 printable ASCII characters.
    """
    header, aliases = config.naming
    given = headers.get(header)
    if given is not None:
        return Identity(_name(given.decode("latin-1"), config.header), config.header.lower())
    for key in ("session", "conversation"):
        if fields.get(key, b"null") != b"null":
            return Identity(_name(_id_in(parsed(fields, key), key), key), None)
    for alias in aliases:
        value = headers.get(alias)
        if value:
            return Identity(_name(value.decode("latin-1"), alias.decode()), alias.decode())
    if b"session_id" in fields.get("metadata", b""):
        metadata = parsed(fields, "metadata")
        if isinstance(metadata, dict) and metadata.get("session_id") is not None:
            return Identity(_name(metadata["session_id"], "metadata.session_id"), None)
    return None


def _id_in(value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        return value
    if "id" not in value:
        raise BadRequest(f"{key}.id is missing: name the session", param=f"{key}.id")
    return value["id"]


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{where} must be a string that names the session", param=where)
    if not 1 <= len(value) <= 256:
        raise BadRequest(f"{where} has {len(value)} characters; a session's name has 1 to 256", param=where)
    if not (value.isascii() and value.isprintable()):
        raise BadRequest(f"{where} may hold printable ASCII characters only", param=where)
    return value


def options_of(config: Sessions, headers: dict[bytes, bytes], fields: Fields, who: Identity) -> Options:
    """The turn's options: the body's `session` object, else X-Session-<Option> headers, else what the alias implies."""
    given = _from_headers(headers)
    body = parsed(fields, "session")
    if isinstance(body, dict):
        given |= {key: value for key, value in body.items() if key != "id"}
    default: Mode = "auto"
    if who.header in config.observe_aliases:
        default = "observe"
    elif who.header in config.resend_aliases:
        default = "resend"
    _refuse_unknown(given)
    fork, branch = _place_in(given)
    return Options(
        mode=cast(Mode, _one_of(given, "mode", MODES) or default),
        save=_flag(given, "save", True),
        token_budget=_budget(given),
        overflow=cast("Overflow | None", _one_of(given, "context_overflow", OVERFLOWS)),
        agent=_agent(given),
        recall=None if given.get("recall") is None else _flag(given, "recall", True),
        recall_tools=_flag(given, "recall_tools", True),
        fork=fork,
        branch=branch,
        metadata=_metadata(given),
    )


def place_of(headers: dict[bytes, bytes], fields: Fields) -> tuple[int | None, int | None]:
    """The turn after which a request begins a branch, and the branch that it continues: for a door whose other options
    stand elsewhere."""
    given = _from_headers(headers)
    body = parsed(fields, "session") if "session" in fields else None
    return _place_in(given | body if isinstance(body, dict) else given)


def _place_in(given: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """`fork` and `branch` of the options. Raises BadRequest for what is no number, and for both at once."""
    fork = _number(given, "fork", 0, "of a turn, or 0 for the beginning")
    branch = _number(given, "branch", 1, "of a branch, from 1 on")
    if fork is not None and branch is not None:
        raise BadRequest(
            "session.fork begins a branch and session.branch continues one; send one of them", param="session.fork"
        )
    return fork, branch


def _number(given: Mapping[str, Any], key: str, least: int, what: str) -> int | None:
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadRequest(f"session.{key} must be the number {what}", param=f"session.{key}")
    return value


_HEADERS = {
    key: b"x-session-" + key.replace("_", "-").encode()
    for key in (
        "mode",
        "save",
        "recall",
        "recall_tools",
        "agent",
        "metadata",
        "token_budget",
        "context_overflow",
        "fork",
        "branch",
        *LATER,
    )
}


def _from_headers(headers: dict[bytes, bytes]) -> dict[str, Any]:
    if not any(name.startswith(b"x-session-") for name in headers):
        return {}
    return {key: _plain(headers[name].decode("latin-1")) for key, name in _HEADERS.items() if name in headers}


_INTEGER = re.compile(r"-?[0-9]{1,18}")


def _plain(text: str) -> Any:
    """A header's text as the value it stands for."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text == "null":
        return None
    return int(text) if _INTEGER.fullmatch(text) else text


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        if key in LATER and value not in (None, False):
            raise BadRequest(
                f"session.{key} is not supported by this version; leave it out",
                param=f"session.{key}",
                code="unsupported_option",
            )
        if key not in _HEADERS:
            valid = ", ".join(["id", *(name for name in _HEADERS if name not in LATER)])
            raise BadRequest(f"session.{key} is not an option; valid: {valid}", param=f"session.{key}")


def _one_of(given: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str | None:
    if key not in given:
        return None
    value = given[key]
    if value is None:
        return "null" if "null" in choices else None
    if value not in choices:
        raise BadRequest(f"session.{key} must be one of {', '.join(choices)}", param=f"session.{key}")
    return value


def _flag(given: Mapping[str, Any], key: str, default: bool) -> bool:
    value = given.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"session.{key} must be true or false", param=f"session.{key}")
    return value


def _agent(given: Mapping[str, Any]) -> str | None:
    value = given.get("agent")
    if value is not None and not isinstance(value, str):
        raise BadRequest("session.agent must be the id of an agent of the session", param="session.agent")
    return value


def _metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    """An object; a header brings it as JSON."""
    value = given.get("metadata")
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value.encode("latin-1"))  # a header's bytes, as they came
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            value = ""
    if value is not None and not isinstance(value, dict):
        raise BadRequest("session.metadata must be a JSON object", param="session.metadata")
    return value or {}


def _budget(given: Mapping[str, Any]) -> int | None:
    value = given.get("token_budget")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 100_000_000:
        raise BadRequest(
            "session.token_budget must be a whole number of tokens, at least 1", param="session.token_budget"
        )
    return value
