"""/docs: the API reference, one page that loads nothing else, made of the OpenAPI document.

`reference.html` lays out what is gathered here; Jinja escapes all of it. Nothing else is read.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from proxy.edge.published import Publication

Json = dict[str, Any]

FOLDER = Path(__file__).parent
BASE = "http://127.0.0.1:8080"
SAMPLES: Mapping[str, Any] = {
    "uuid": "0199d7a2-5c1e-7c3a-9d0b-3f6f6a1f2b4c",
    "date-time": "2026-11-22T12:00:00Z",
    "string": "text",
    "integer": 1,
    "number": 0.5,
    "boolean": True,
    "null": None,
}
DEPTH = 6
"""How deep an example goes."""


@dataclass(frozen=True, slots=True)
class Word:
    """A part of a type's name; `link` is the id of the schema that it names."""

    text: str
    link: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A parameter or a field."""

    name: str
    place: str
    kind: Sequence[Word]
    required: bool
    limits: Sequence[str]
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: its media types with what is in them, and the fields of the first one that has some."""

    status: str
    text: str
    media: Sequence[tuple[str, Sequence[Word]]]
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Entry:
    """An operation as the page shows it."""

    id: str
    method: str
    path: str
    summary: str
    text: str
    parameters: Sequence[Row]
    body: Sequence[Word]
    fields: Sequence[Row]
    answers: Sequence[Answer]
    failures: Sequence[tuple[str, str]]
    curl: str


def publication(document: Json) -> Publication:
    """The page as it is served: nothing but its own style may be applied or loaded."""
    style = (FOLDER / "reference.css").read_text()
    mark = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{mark}'; img-src data:; base-uri 'none'; form-action 'none'; " + (
        "frame-ancestors 'none'"
    )
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return Publication(page(document, style).encode(), headers)


def page(document: Json, style: str) -> str:
    """The HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"prose": prose, "brief": brief, "slug": slug}
    template = environment.from_string((FOLDER / "reference.html").read_text())
    groups = [(tag, list(entries(document, tag["name"]))) for tag in document["tags"]]
    shapes = [
        (name, schema.get("description", ""), rows(schema))
        for name, schema in sorted(document["components"]["schemas"].items())
    ]
    key = document["components"]["securitySchemes"]["bearer"]["description"]
    return template.render(info=document["info"], groups=groups, shapes=shapes, key=key, style=Markup(style), base=BASE)


def prose(text: str) -> Markup:
    """Text with `code` in it."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(parts)
    )


def brief(path: str) -> Markup:
    """A path in a narrow column: short names, broken at its slashes."""
    parts = re.sub(r"{\w+_id}", "{id}", path).split("/")
    return Markup("<wbr>/").join(escape(part) for part in parts)


def slug(text: str) -> str:
    """A text as an id of the page."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()


def entries(document: Json, tag: str) -> Iterator[Entry]:
    """The operations that are listed under a tag."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                yield _entry(document, method.upper(), path, operation)


def _entry(document: Json, method: str, path: str, operation: Json) -> Entry:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    answers: list[Answer] = []
    failures: list[tuple[str, str]] = []
    for status, response in operation["responses"].items():
        found = resolved(document, response)
        if status.startswith("2"):
            answers.append(_answer(document, status, found))
        else:
            failures.append((status, found["description"]))
    return Entry(
        id=operation["operationId"],
        method=method,
        path=path,
        summary=operation["summary"],
        text=operation.get("description", ""),
        parameters=[_parameter(one) for one in operation.get("parameters", ())],
        body=words(body) if body else [],
        fields=rows(resolved(document, body)) if body else [],
        answers=answers,
        failures=failures,
        curl=curl(document, method, path, operation),
    )


def _answer(document: Json, status: str, response: Json) -> Answer:
    media = {kind: content.get("schema", {}) for kind, content in response.get("content", {}).items()}
    fields = [rows(resolved(document, schema)) for schema in media.values()]
    return Answer(
        status,
        response["description"],
        [(kind, words(schema)) for kind, schema in media.items()],
        next((found for found in fields if found), []),
    )


def resolved(document: Json, schema: Json) -> Json:
    """What a reference stands for."""
    while "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def rows(schema: Json) -> list[Row]:
    """An object's fields, those that are required first."""
    required = schema.get("required", ())
    found = [
        Row(name, "", words(field), name in required, limits(field), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]
    return sorted(found, key=lambda row: not row.required)


def _parameter(given: Json) -> Row:
    schema = given["schema"] if "schema" in given else given["content"]["application/json"]["schema"]
    return Row(
        given["name"], given["in"], words(schema), given["required"], limits(schema), given.get("description", "")
    )


def words(schema: Json) -> list[Word]:
    """A type's name; what it is made of is linked."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return [Word(name, f"schema-{slug(name)}")]
    if "anyOf" in schema:
        found: list[Word] = []
        for kind in schema["anyOf"]:
            found += [Word(" or "), *words(kind)]
        return found[1:]
    if "enum" in schema:
        return [Word(" | ".join(json.dumps(value) for value in schema["enum"]))]
    if "contentSchema" in schema:
        return [Word("JSON of "), *words(schema["contentSchema"])]
    if schema.get("type") == "array":
        return [Word("list of "), *(words(schema["items"]) if schema.get("items") else [Word("anything")])]
    if isinstance(schema.get("additionalProperties"), dict):
        return [Word("object of "), *words(schema["additionalProperties"])]
    return [Word(schema.get("format") or schema.get("type") or "anything")]


BOUNDS = (
    ("minimum", "at least {}"), ("exclusiveMinimum", "more than {}"),
    ("maximum", "at most {}"), ("exclusiveMaximum", "less than {}"),
    ("minLength", "at least {} characters"), ("maxLength", "at most {} characters"),
    ("minItems", "at least {} items"), ("maxItems", "at most {} items"),
)  # fmt: skip
HUGE = 2**53
"""A bound from here on is no news."""
EMPTY = re.compile("at least 1 (characters|items)")


def limits(schema: Json) -> list[str]:
    """What a value must be beside its type, in words; `code` stands in backquotes."""
    found: list[str] = []
    for kind in (schema, *schema.get("anyOf", ())):
        found += [said.format(f"{kind[key]:,}") for key, said in BOUNDS if abs(kind.get(key, HUGE)) < HUGE]
        if "pattern" in kind:
            found.append(f"like `{kind['pattern']}`")
    if schema.get("default") is not None:
        found.append(f"default `{json.dumps(schema['default'])}`")
    return [EMPTY.sub("not empty", said) for said in found]


def curl(document: Json, method: str, path: str, operation: Json) -> str:
    """The operation as a command; what the path needs stands in it as shell variables."""
    address = re.sub(r"{(\w+)}", lambda found: "$" + found[1].upper(), BASE + path)
    lines = ["curl " + ("" if method == "GET" else f"-X {method} ") + address]
    if operation.get("security") != []:
        lines.append("-H 'Authorization: Bearer '\"$KEY\"")
    body = operation.get("requestBody")
    if body is not None:
        if path.startswith("/v1/"):
            lines.append("-H 'X-Session-Id: ada-1'")
        media = body["content"]["application/json"]
        given = media["example"] if "example" in media else sample(document, media["schema"])
        text = json.dumps(given, ensure_ascii=False)
        text = text if len(text) < 60 else json.dumps(given, ensure_ascii=False, indent=2)
        lines += ["-H 'Content-Type: application/json'", "-d '" + text.replace("'", "'\\''") + "'"]
    return " \\\n  ".join(lines)


def sample(document: Json, schema: Json, depth: int = 0) -> Any:
    """A small value of a type: what is required, and no more."""
    schema = resolved(document, schema)
    for key in ("example", "default"):
        if schema.get(key) is not None:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return sample(document, schema["anyOf"][0], depth)
    if schema.get("type") == "array":
        return [sample(document, schema["items"], depth + 1)] if schema.get("minItems") and depth < DEPTH else []
    if "properties" in schema or schema.get("type") == "object":
        fields = schema.get("properties", {})
        return {name: sample(document, fields[name], depth + 1) for name in schema.get("required", ())}
    return SAMPLES.get(schema.get("format", ""), SAMPLES.get(schema.get("type", ""), "text"))
