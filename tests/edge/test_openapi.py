"""/openapi.json: a valid document of every route, and the server keeps to it, as schemathesis finds out."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import jsonschema_rs
import msgspec
import pytest
import schemathesis

from proxy.edge import openapi, wording
from proxy.edge.routes import OPERATIONS
from proxy.store import keys
from tests.scripted import Exchange, delta, dump, envelope, scripted_upstream
from tests.serving import proxy

pytestmark = pytest.mark.anyio

KEY = "sp-schema-0123456789"
DOCUMENT = openapi.document(OPERATIONS)


def parts(value: Any) -> Iterator[dict[str, Any]]:
    """All objects of a document."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(item)


def named(reference: str) -> Any:
    found: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_it_is_valid_openapi() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    assert DOCUMENT["openapi"] == "3.1.0"


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_each_schema_is_a_valid_one(name: str) -> None:
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    jsonschema_rs.meta.validate(dialect | DOCUMENT["components"]["schemas"][name])


def test_no_reference_dangles() -> None:
    references = {part["$ref"] for part in parts(DOCUMENT) if isinstance(part.get("$ref"), str)}
    assert len(references) > 50
    for reference in references:
        assert reference.startswith("#/components/") and named(reference)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
def test_each_route_stands_in_it(operation: Any) -> None:
    path = openapi.path_of(operation)
    told = DOCUMENT["paths"][path][operation.method.lower()]
    assert str(operation.status) in told["responses"]
    places = {one["name"] for one in told.get("parameters", ()) if one["in"] == "path"}
    assert places == set(re.findall(r"{(\w+)}", path))
    assert ("requestBody" in told) == (operation.body is not None)
    assert told["summary"] and told["description"]
    if operation.body in wording.EXAMPLES:
        assert told["requestBody"]["content"]["application/json"]["example"] == wording.EXAMPLES[operation.body]


def test_nothing_stands_in_it_twice_and_nothing_but_the_routes() -> None:
    told = [one for methods in DOCUMENT["paths"].values() for one in methods.values()]
    ids = [one["operationId"] for one in told]
    assert len(set(ids)) == len(ids) == len(OPERATIONS) + 10
    assert {tag for one in told for tag in one["tags"]} == {tag["name"] for tag in DOCUMENT["tags"]}
    assert all(tag["description"] for tag in DOCUMENT["tags"])


@pytest.mark.parametrize("shape", wording.EXAMPLES, ids=lambda shape: shape.__name__)
def test_an_example_fits_the_type_that_reads_it(shape: type[msgspec.Struct]) -> None:
    example = wording.EXAMPLES[shape]
    msgspec.convert(example, shape)
    assert set(example) <= {field.name for field in msgspec.structs.fields(shape)}


def test_the_words_for_fields_are_for_fields_that_there_are() -> None:
    known = {name for part in parts(DOCUMENT) for name in part.get("properties", ())}
    known |= {part["name"] for part in parts(DOCUMENT) if "in" in part}
    assert set(wording.FIELDS) <= known


async def test_it_is_served_to_anybody(tmp_path: Path) -> None:
    async with (
        proxy("http://127.0.0.1:9/v1", tmp_path, auth={"mode": "keys"}) as running,
        aiohttp.ClientSession(running.url.removesuffix("/v1")) as http,
    ):
        seen = []
        for path in ("/openapi.json", "/api/openapi.json"):
            async with http.get(path) as answer:
                assert (answer.status, answer.content_type) == (200, "application/json")
                seen.append(await answer.read())
            async with http.head(path) as answer:
                assert (answer.status, answer.content_length) == (200, len(seen[0]))
            async with http.post(path) as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
                assert (await answer.json())["error"]["code"] == "method_not_allowed"
        assert seen[0] == seen[1] and json.loads(seen[0]) == DOCUMENT


# --- schemathesis ---

CONFIG = """
headers = {{ Authorization = "Bearer {key}" }}
continue-on-failure = true
request-timeout = 30.0
warnings = false

[generation]
allow-extra-parameters = false  # unknown fields and headers are ignored, as Julep does
database = "none"
deterministic = true
max-examples = {examples}

[phases.stateful.generation]
max-examples = {scenarios}

[checks]
enabled = false
{checks}
positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "409", "413"]  # 400: what no type can say

[[operations]]  # without a session nothing is looked at
include-path = "/v1/chat/completions"
checks.negative_data_rejection.enabled = false

[[operations]]  # what is deleted there stands in a list, and the list stays
include-path-regex = "/(docs|history)$"
checks.use_after_free.enabled = false

[[operations]]
include-method = ["GET", "POST", "PUT", "PATCH"]  # DELETE would leave nothing to ask for
[operations.parameters]
"path.agent_id" = {{ dictionary = "agents", probability = 0.8 }}
"path.user_id" = {{ dictionary = "users", probability = 0.8 }}
"path.session_id" = {{ dictionary = "sessions", probability = 0.8 }}
"path.doc_id" = {{ dictionary = "docs", probability = 0.8 }}
"path.tool_id" = {{ dictionary = "tools", probability = 0.8 }}
"path.completion_id" = {{ dictionary = "completions", probability = 0.8 }}
"path.file_id" = {{ dictionary = "files", probability = 0.8 }}
"path.job_id" = {{ dictionary = "files", probability = 0.8 }}
"body.agent" = {{ dictionary = "agents", probability = 0.8 }}
"header.X-Session-Id" = {{ dictionary = "sessions", probability = 0.6 }}

[dictionaries]
agents = {{ values = ["{agent}"] }}
users = {{ values = ["{user}"] }}
sessions = {{ values = ["{session}", "named"] }}
docs = {{ values = ["{doc}"] }}
tools = {{ values = ["{tool}"] }}
completions = {{ values = ["{completion}"] }}
files = {{ values = ["{file}"] }}
"""

ONCE = """
[[operations]]
include-path-regex = '''{paths}'''
phases.coverage.enabled = false
"""
ALIKE = (
    r"^/(users|sessions)/{\w+}/(docs|search|tools)|/docs/search$|/render$|^/(agents|users|sessions)/{\w+}$|"
    "^/v1/.*/messages$"
)
"""Paths whose types and handlers are those of others: the edges of each type are tried once."""

CHECKS = "\n".join(
    f"{name}.enabled = true"
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
        "positive_data_acceptance",
        "unsupported_method",
        "allow_header_conformance",
        "use_after_free",
        "ensure_resource_availability",
        "ignored_auth",
    )
)
"""Those that there are, but missing_required_header: it wants 401 where the Sessions API says 403, as Julep does."""

COMMAND = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]


async def noon(exchange: Exchange) -> None:
    """Says the same to whatever is asked."""
    request = exchange.request
    if not (isinstance(request.json, dict) and request.json.get("stream") is True):
        message = {"role": "assistant", "content": "It is noon"}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        whole = envelope(request, "chat.completion", [choice], usage={"prompt_tokens": 1, "completion_tokens": 3})
        await exchange.whole(200, dump(whole), {"content-type": "application/json"})
        return
    await exchange.start_stream()
    for part, finish in (({"role": "assistant", "content": "It is noon"}, None), ({}, "stop")):
        await exchange.event(delta(request, part, finish))
    await exchange.event("[DONE]")
    await exchange.end()


async def made(http: aiohttp.ClientSession) -> dict[str, str]:
    """One of each thing, so that not all that is asked for is missing."""

    async def post(path: str, status: int = 201, **body: Any) -> str:
        async with http.post(path, json=body) as answer:
            assert answer.status == status, await answer.text()
            return (await answer.json())["id"]

    agent = await post("/agents", name="Ada", model="gpt-4o-mini")
    user = await post("/users", name="Bob")
    session = await post("/sessions", agent=agent, user=user)
    await post("/sessions/named", agent=agent)
    doc = await post(f"/agents/{agent}/docs", title="Shipping", content="We ship to France.")
    tool = await post(f"/agents/{agent}/tools", name="clock")
    file = await post("/files", name="hello.txt", content="aGVsbG8=")
    asked = {"session": session, "messages": [{"role": "user", "content": "When?"}], "store": True}
    completion = await post("/v1/chat/completions", 200, **asked)
    found = {"agent": agent, "user": user, "session": session, "doc": doc, "tool": tool, "file": file}
    return {**found, "completion": completion}


async def kept_to(folder: Path, seconds: float, examples: int, scenarios: int, more: str) -> None:
    """Runs schemathesis against a served proxy; nothing that it stores may be unreadable afterwards."""
    async with (
        scripted_upstream(noon, models=[{"id": "gpt-4o-mini", "object": "model"}]) as up,
        proxy(up.url, folder, auth={"mode": "keys"}, models={"default": {"model": "gpt-4o-mini"}}) as running,
    ):
        await keys.create(running.edge.svc.db, "acme", "admin", KEY.encode(), 0)
        base = running.url.removesuffix("/v1")
        async with aiohttp.ClientSession(base, headers={"Authorization": f"Bearer {KEY}"}) as http:
            settings = CONFIG.format(key=KEY, checks=CHECKS, examples=examples, scenarios=scenarios, **await made(http))
            await asyncio.to_thread((folder / "schemathesis.toml").write_text, settings + more)
            command = [*COMMAND, "--config-file", "schemathesis.toml", "run", f"{base}/openapi.json", "--no-color"]
            with anyio.fail_after(seconds):
                result = await anyio.run_process(command, cwd=folder, check=False)
            said = result.stdout.decode()
            assert result.returncode == 0, said[-8000:]
            assert f"Tested: {len(OPERATIONS) + 10}" in said
            asked = [request for request in up.requests if request.method == "POST"]
            assert len(asked) > 50, "what it asks for is not there"
            await _check_lists(http)


async def _check_lists(http: aiohttp.ClientSession) -> None:
    async with http.get("/files") as answer:
        assert answer.status == 200
        for item in await answer.json():
            async with http.get(f"/files/{item['id']}") as file:
                assert file.status == 200
    for kind in ("agents", "users", "sessions"):
        offset = 0
        while True:
            async with http.get(f"/{kind}?offset={offset}") as answer:
                assert answer.status == 200
                items = (await answer.json())["items"]
            offset += len(items)
            for item in items:
                await _check_own(http, kind, item["id"])
            if not items:
                break


async def _check_own(http: aiohttp.ClientSession, kind: str, id: str) -> None:
    own = {"agents": ("docs", "tools"), "users": ("docs",), "sessions": ("docs", "tools", "history", "messages")}
    for path in own[kind]:
        async with http.get(f"/{kind}/{id}/{path}") as answer:
            assert answer.status == 200, (path, await answer.text())


@pytest.mark.timeout(150)
async def test_the_server_keeps_to_it(tmp_path: Path) -> None:
    await kept_to(tmp_path, 120, 2, 8, ONCE.format(paths=ALIKE))


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_server_keeps_to_it_for_long(tmp_path: Path) -> None:
    await kept_to(tmp_path, 840, 60, 200, "")
