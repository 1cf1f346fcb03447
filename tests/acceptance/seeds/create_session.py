"""S3, the OpenAPI of "create session", over plain HTTP: every field of its request, and its two answers."""

from datetime import datetime
from typing import Any

from tests.acceptance.seeds.world import World

DEFAULTS: dict[str, Any] = {
    "situation": None, "system_template": None, "summary": None, "render_templates": True, "token_budget": None,
    "auto_run_tools": False, "forward_tool_calls": False, "recall_options": None, "kind": None, "metadata": {},
}  # fmt: skip
COMMON: dict[str, Any] = {
    "limit": 10, "lang": "en-US", "metadata_filter": {}, "num_search_messages": 4, "max_query_length": 1000,
    "include_embeddings": True,
}  # fmt: skip
VECTOR = {**COMMON, "mode": "vector", "confidence": 0.5, "mmr_strength": 0.5}
TEXT = {**COMMON, "mode": "text", "trigram_similarity_threshold": None}
HYBRID = {
    **COMMON, "mode": "hybrid", "confidence": 0.5, "alpha": 0.5, "mmr_strength": 0.5,
    "trigram_similarity_threshold": None, "k_multiplier": 7,
}  # fmt: skip


async def minimal(w: World) -> None:
    made = await w.http(201, "POST", "/sessions", {"agent": w.agent})
    assert made.items() >= DEFAULTS.items()
    assert len(made["id"]) == 36
    assert datetime.fromisoformat(made["created_at"]) == datetime.fromisoformat(made["updated_at"])


async def full(w: World) -> None:
    given = {
        "situation": "a refund", "system_template": "Be {{agent.name}}.", "render_templates": False,
        "token_budget": 4000, "context_overflow": "truncate", "auto_run_tools": True, "forward_tool_calls": True,
        "metadata": {"a": {"b": [1]}},
    }  # fmt: skip
    made = await w.http(201, "POST", "/sessions", {"agent": w.agent, "user": w.user, **given, "nobody": "knows this"})
    assert made.items() >= given.items()
    assert (made["agent"], made["user"], "nobody" in made) == (w.agent, w.user, False)


async def several_participants(w: World) -> None:
    agents = [w.agent, await w.sdk.agent("Eve")]
    made = await w.http(201, "POST", "/sessions", {"agents": agents, "users": [w.user]})
    assert (made["agents"], made["users"]) == (agents, [w.user])


async def all_null(w: World) -> None:
    """null is what is not given, but for the strategy: it is the one that drops nothing."""
    nulls = dict.fromkeys(
        ("user", "users", "agents", "situation", "system_template", "token_budget", "context_overflow",
         "recall_options", "metadata")
    )  # fmt: skip
    made = await w.http(201, "POST", "/sessions", {"agent": w.agent, **nulls})
    assert made.items() >= DEFAULTS.items()
    assert made["context_overflow"] is None


async def under_api(w: World) -> None:
    """The document's server is /api; its key stands in Authorization."""
    made = await w.http(201, "POST", "/api/sessions", {"agent": w.agent})
    assert await w.http(200, "GET", f"/sessions/{made['id']}") == made


async def recall_options(w: World) -> None:
    for given, kept in (
        ({"mode": "vector"}, VECTOR),
        ({"mode": "text"}, TEXT),
        ({"mode": "hybrid"}, HYBRID),
        ({}, VECTOR),
        ({"alpha": 0.7}, {**HYBRID, "alpha": 0.7}),
        ({"trigram_similarity_threshold": 0.6}, {**TEXT, "trigram_similarity_threshold": 0.6}),
        ({"mode": "vector", "limit": 50, "confidence": -1}, {**VECTOR, "limit": 50, "confidence": -1}),
        ({"mode": "hybrid", "k_multiplier": 0, "mmr_strength": 0}, {**HYBRID, "k_multiplier": 0, "mmr_strength": 0}),
    ):
        made = await w.http(201, "POST", "/sessions", {"agent": w.agent, "recall_options": given})
        assert made["recall_options"] == kept, given
        assert (await w.http(200, "GET", f"/sessions/{made['id']}"))["recall_options"] == kept


async def out_of_range(w: World) -> None:
    """422 is FastAPI's HTTPValidationError, with Julep's envelope beside it."""
    wrong: list[tuple[dict[str, Any], list[str]]] = [
        ({"agent": 7}, ["body", "agent"]),
        ({"user": "nobody"}, ["body", "user"]),
        ({"context_overflow": "drop"}, ["body", "context_overflow"]),
        ({"render_templates": "yes"}, ["body", "render_templates"]),
        ({"token_budget": "many"}, ["body", "token_budget"]),
        ({"metadata": []}, ["body", "metadata"]),
    ]
    for key, value in (
        ("limit", 0), ("limit", 51), ("num_search_messages", 51), ("max_query_length", 99), ("confidence", 1.1),
        ("mmr_strength", 1), ("alpha", -0.1), ("k_multiplier", -1), ("mode", "magic"),
    ):  # fmt: skip
        wrong.append(({"recall_options": {key: value}}, ["body", "recall_options", key]))
    for given, loc in wrong:
        answer = await w.http(422, "POST", "/sessions", {"agent": w.agent, **given})
        (detail,) = answer["detail"]
        assert (detail["loc"], set(detail)) == (loc, {"loc", "msg", "type"})
        assert answer["error"]["details"] == answer["detail"]
    listed = await w.http(200, "GET", "/sessions")
    assert [one["id"] for one in listed["items"]] == [w.session]
