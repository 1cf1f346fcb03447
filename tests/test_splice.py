"""The body that goes upstream keeps the client's bytes around the messages that were chosen."""

import json
import re
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from proxy import config
from proxy.edge import body
from proxy.services import Turn
from proxy.splice import as_sent, splice
from proxy.types import Options, Scope
from proxy.upstream.route import route

TARGET = route(config.load("upstreams: [{name: u, base_url: 'http://u/v1', prompt_cache_key: true}]", {}), "m")
ALIAS = "models: {mine: {model: theirs}}\nupstreams: [{name: u, base_url: 'http://u/v1', %s}]"


def turn(raw: bytes, settings: str = "", model: str = "m", stream: bool = False) -> Turn:
    target = route(config.load(settings, {}), model)
    return Turn(
        scope=Scope(1), name="s", options=Options(), request_id="r", fields=body.fields(raw), system=None, messages=(),
        model=model, stream=stream, wants_usage=False, reserve=0, headers=(), target=target, key="", retried=False,
        request=b"", now=0, started=0.0,
    )  # fmt: skip


def test_numbers_unknown_fields_and_their_order_keep_their_bytes() -> None:
    raw = b'{"model":"m", "seed": 1.0e2,"messages":[{"role":"user"}],"x_new":{"a" : [1,2.50]},"a-b":null}'
    assert splice(turn(raw), b"X") == (
        b'{"messages":[X],"model":"m","seed":1.0e2,"x_new":{"a" : [1,2.50]},"a-b":null}'
    )  # fmt: skip


def test_an_observed_request_keeps_its_messages() -> None:
    raw = b'{"messages": [ {"role" : "user"} , {"role":"assistant"}\n] }'
    assert as_sent(turn(raw)).strip() == b'{"role" : "user"} , {"role":"assistant"}'


def test_an_alias_is_replaced_by_the_models_own_name() -> None:
    raw = b'{"model":"mine","messages":[]}'
    assert json.loads(splice(turn(raw, ALIAS % "retries: 0", "mine"), b""))["model"] == "theirs"


def test_a_stream_asks_for_usage_and_keeps_its_other_options() -> None:
    def options(given: str, settings: str = "", stream: bool = True) -> Any:
        raw = b'{"messages":[],"stream":true%b}' % given.encode()
        return json.loads(splice(turn(raw, settings, stream=stream), b"")).get("stream_options")

    assert options("") == options(',"stream_options":null') == {"include_usage": True}
    assert options(',"stream_options":{"x":1,"include_usage":false}') == {"x": 1, "include_usage": True}
    assert options("", stream=False) is None
    assert options("", "upstreams: [{name: u, base_url: 'http://u', stream_usage: false}]") is None


def test_a_cache_key_is_set_where_the_upstream_takes_one_and_the_client_has_none() -> None:
    takes = ALIAS % "prompt_cache_key: true"

    def key(given: bytes = b"", settings: str = takes, session: str | None = "id") -> Any:
        raw = b'{"messages":[]%b}' % given
        return json.loads(splice(turn(raw, settings), b"", session)).get("prompt_cache_key", "absent")

    assert re.fullmatch("[0-9a-f]{32}", key())
    assert key() == key() != key(session="other")
    assert key(b',"prompt_cache_key":"own"') == "own"
    assert key(b',"prompt_cache_key":null') is None
    assert key(settings=ALIAS % "retries: 0") == key(session=None) == "absent"


def test_store_and_metadata_stay_here_where_the_upstream_has_no_store() -> None:
    raw = b'{"messages":[],"store":true,"metadata":{"a":"b"}}'
    assert json.loads(splice(turn(raw), b"")) == {"messages": []}
    assert set(json.loads(splice(turn(raw, ALIAS % "supports_store: true"), b""))) == {"messages", "store", "metadata"}
    raw = b'{"messages":[],"store":false,"metadata":{"a":"b"}}'
    assert set(json.loads(splice(turn(raw), b""))) == {"messages", "store", "metadata"}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=6
)
names = st.text(min_size=1).filter(lambda name: name not in ("messages", "store", "stream_options", "model"))


@given(st.dictionaries(names, values, max_size=6), st.booleans())
def test_every_field_arrives_as_it_was(fields: dict[str, Any], escaped: bool) -> None:
    raw = json.dumps({"messages": [1], **fields}, ensure_ascii=escaped).encode("utf-8", "replace")
    sent = json.loads(raw)
    assert msgspec.json.decode(splice(turn(raw), b"2")) == {**sent, "messages": [2]}
