"""/docs: one page with every operation that loads nothing else, and whose commands work."""

import base64
import copy
import hashlib
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from proxy.edge import openapi, reference
from proxy.edge.openapi import operation_id, path_of
from proxy.edge.routes import OPERATIONS
from tests.serving import proxy

pytestmark = pytest.mark.anyio

DOCUMENT = openapi.document(OPERATIONS)
PAGE = reference.publication(DOCUMENT)
HTML = PAGE.content.decode()
TOLD = [(path, method, one) for path, methods in DOCUMENT["paths"].items() for method, one in methods.items()]


class Reader(HTMLParser):
    """What a page consists of: its elements with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, name: str) -> list[str]:
        return [value for kind, given in self.elements if kind == tag and (value := given.get(name)) is not None]


READ = Reader(HTML)


@pytest.mark.parametrize("told", TOLD, ids=lambda told: told[2]["operationId"])
def test_it_has_every_operation(told: tuple[str, str, dict[str, Any]]) -> None:
    path, method, operation = told
    _, _, part = HTML.partition(f'<article id="{operation["operationId"]}">')
    shown = Reader(part.partition("</article>")[0])
    assert operation["summary"] in shown.text.replace("`", "")
    assert method.upper() in shown.text and path in shown.text
    for parameter in operation.get("parameters", ()):
        assert parameter["name"] in shown.text
    for status in operation["responses"]:
        assert status in shown.text


def test_it_loads_nothing() -> None:
    assert not {tag for tag, _ in READ.elements} & {"script", "img", "iframe", "object", "embed", "form", "base"}
    for tag, given in READ.elements:
        assert not {"src", "srcset", "style", "action"} & set(given) and not [
            name for name in given if name[:2] == "on"
        ]
        if tag == "link":
            assert given["href"] == "data:,"
    assert all(address.startswith("#") or address == "openapi.json" for address in READ.all("a", "href"))
    style = HTML.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style
    mark = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = PAGE.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ") and f"style-src 'sha256-{mark}'" in policy
    assert "unsafe" not in policy


def test_each_of_its_links_leads_somewhere() -> None:
    ids = [given["id"] for _, given in READ.elements if given.get("id")]
    assert len(set(ids)) == len(ids)
    assert {address[1:] for address in READ.all("a", "href") if address[0] == "#"} <= set(ids)


def test_it_shows_types_and_what_values_may_be() -> None:
    _, _, part = HTML.partition('<article id="sessions_chat">')
    shown = " ".join(Reader(part.partition("</article>")[0]).text.split())
    for said in (
        "messages required list of ChatMessage not empty",
        "temperature number or null at least 0 at most 5",
        "model string or null at most 120 characters",
        '"adaptive" | "summarize" | "truncate" or null',
        "save boolean default true",
        "text/event-stream ChatEvent",
    ):
        assert said in shown


def test_a_text_stays_a_text() -> None:
    document = copy.deepcopy(DOCUMENT)
    evil = "<script>alert(1)</script>\"'`<b>x</b>`&lt;"
    document["info"]["description"] = document["tags"][0]["description"] = evil
    operation = document["paths"]["/agents"]["post"]
    operation["summary"] = operation["description"] = evil
    operation["requestBody"]["content"]["application/json"]["example"] = {evil: evil}
    document["components"]["schemas"]["CreateAgent"]["properties"][evil] = {"enum": [evil], "description": evil}
    document["components"]["schemas"][evil] = {"properties": {evil: {"pattern": evil, "default": evil}}}
    document["paths"][f"/{evil}"] = {"get": {**operation, "operationId": 'x" onload="y', "parameters": []}}
    read = Reader(reference.publication(document).content.decode())
    assert {tag for tag, _ in read.elements} == {tag for tag, _ in READ.elements}
    assert {name for _, given in read.elements for name in given} == {
        name for _, given in READ.elements for name in given
    }
    assert "alert(1)" in read.text


@pytest.mark.parametrize("told", TOLD, ids=lambda told: told[2]["operationId"])
def test_its_command_is_one_that_works(told: tuple[str, str, dict[str, Any]]) -> None:
    path, method, operation = told
    words = shlex.split(reference.curl(DOCUMENT, method.upper(), path, operation).replace("\\\n", " "))
    assert words[0] == "curl"
    assert (words[words.index("-X") + 1] if "-X" in words else "GET") == method.upper()
    address = next(word for word in words if word.startswith("http"))
    assert address.removeprefix(reference.BASE) == re.sub(r"{(\w+)}", lambda found: f"${found[1].upper()}", path)
    by_id = {operation_id(one): one for one in OPERATIONS}
    own = by_id.get(operation["operationId"])
    assert own is None or path_of(own) == path
    if own is not None and own.body is not None:
        msgspec.json.decode(words[words.index("-d") + 1], type=own.body)


def test_a_body_without_an_example_gets_what_it_needs() -> None:
    document = {
        "components": {"schemas": {"Inner": {"properties": {"n": {"type": "integer"}}, "required": ["n"]}}},
    }
    schema = {
        "properties": {
            "kind": {"enum": ["a", "b"]},
            "list": {"type": "array", "items": {"$ref": "#/components/schemas/Inner"}, "minItems": 1},
            "either": {"anyOf": [{"type": "string", "format": "uuid"}, {"type": "null"}]},
            "optional": {"type": "string"},
        },
        "required": ["kind", "list", "either"],
    }
    assert reference.sample(document, schema) == {
        "kind": "a",
        "list": [{"n": 1}],
        "either": reference.SAMPLES["uuid"],
    }


async def test_it_is_served_to_anybody_and_a_document_is_not(tmp_path: Path) -> None:
    async with (
        proxy("http://127.0.0.1:9/v1", tmp_path, auth={"mode": "keys"}) as running,
        aiohttp.ClientSession(running.url.removesuffix("/v1")) as http,
    ):
        for path in ("/docs", "/api/docs"):
            async with http.get(path) as answer:
                assert (answer.status, answer.content_type) == (200, "text/html")
                assert await answer.read() == PAGE.content
                assert answer.headers["Content-Security-Policy"] == PAGE.headers["content-security-policy"]
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
        for path in ("/docs/0199d7a2-5c1e-7c3a-9d0b-3f6f6a1f2b4c", "/api/docs/x"):
            async with http.get(path) as answer:
                assert (answer.status, json.loads(await answer.read())["error"]["code"]) == (403, "invalid_api_key")
