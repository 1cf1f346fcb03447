"""The julep SDK, unchanged: documents of agents and users, searching them, and what they do in a chat."""

from typing import Any

import julep
import pytest

from tests.acceptance.asking import user
from tests.acceptance.julep_client import Sdk

pytestmark = pytest.mark.anyio

OWNERS = pytest.mark.parametrize("kind", ["agent", "user"])
TEA = "Green tea is steeped for three minutes."
COFFEE = "Coffee beans are roasted twice."


async def owner(sdk: Sdk, kind: str) -> dict[str, str]:
    """A new agent or user, as the SDK's methods name it."""
    id = await sdk.agent() if kind == "agent" else (await sdk("users.create", name="Bob")).id
    return {f"{kind}_id": id}


async def add(sdk: Sdk, of: dict[str, str], title: str, content: Any, **metadata: Any) -> str:
    """The id of a new document."""
    return (await sdk(f"{docs(of)}.create", **of, title=title, content=content, metadata=metadata)).id


def docs(of: dict[str, str]) -> str:
    return "agents.docs" if "agent_id" in of else "users.docs"


@OWNERS
async def test_a_document_is_made_and_read_with_its_content_as_a_list(sdk: Sdk, kind: str) -> None:
    of = await owner(sdk, kind)
    made = await sdk(f"{docs(of)}.create", **of, title="Tea", content=TEA, metadata={"about": "tea"})
    assert (made.title, made.content, made.metadata) == ("Tea", [TEA], {"about": "tea"})
    assert (made.modality, made.language, made.embeddings) == ("text", "english", None)
    assert await sdk("docs.get", made.id) == made
    several = await sdk(f"{docs(of)}.create", **of, title="Drinks", content=[TEA, COFFEE], embed_instruction="x")
    assert (await sdk("docs.get", several.id)).content == [TEA, COFFEE]


@OWNERS
async def test_documents_are_listed_by_page_and_metadata(sdk: Sdk, kind: str) -> None:
    of, stranger = await owner(sdk, kind), await owner(sdk, kind)
    made = [await add(sdk, of, f"T{n}", f"text {n}", n=n, odd=n % 2 == 1, tag=f"t{n}") for n in range(4)]
    await add(sdk, stranger, "T", "text", n=1)
    id, *_ = of.values()
    assert [doc.id for doc in await sdk.every(f"{docs(of)}.list", id, limit=3)] == made[::-1]
    for where, found in (({"n": 2}, made[2:3]), ({"odd": True}, [made[3], made[1]]), ({"tag": "t0"}, made[:1])):
        assert [doc.id for doc in await sdk.every(f"{docs(of)}.list", id, metadata_filter=where)] == found


@OWNERS
async def test_a_deleted_document_is_gone_from_everywhere(sdk: Sdk, kind: str) -> None:
    of = await owner(sdk, kind)
    id, *_ = of.values()
    doc = await add(sdk, of, "Tea", TEA)
    assert (await sdk(f"{docs(of)}.delete", doc, **of)).id == doc
    assert await sdk.every(f"{docs(of)}.list", id) == []
    assert (await sdk(f"{docs(of)}.search", **of, text="tea")).docs == []
    for method, given in (("docs.get", {}), (f"{docs(of)}.delete", of)):
        with pytest.raises(julep.NotFoundError):
            await sdk(method, doc, **given)


@OWNERS
async def test_bulk_delete_takes_what_the_filter_names_or_all_or_nothing(sdk: Sdk, kind: str) -> None:
    of = await owner(sdk, kind)
    made = [await add(sdk, of, f"T{n}", f"text {n}", odd=n % 2 == 1) for n in range(5)]
    for where, gone in (
        ({}, []),
        ({"metadata_filter": {}}, []),
        ({"metadata_filter": {"odd": "no"}}, []),
        ({"metadata_filter": {"odd": True}}, [made[1], made[3]]),
        ({"delete_all": True}, [made[0], made[2], made[4]]),
    ):
        deleted = await sdk(f"{docs(of)}.bulk_delete", **of, **where)
        assert sorted(doc.id for doc in deleted) == sorted(gone), where


@OWNERS
async def test_the_same_document_twice_is_a_conflict_but_not_for_another_owner(sdk: Sdk, kind: str) -> None:
    of, other = await owner(sdk, kind), await owner(sdk, kind)
    await add(sdk, of, "Tea", TEA)
    with pytest.raises(julep.ConflictError, match="A doc with this content already exists"):
        await add(sdk, of, "Tea", TEA)
    assert await sdk.status(f"{docs(of)}.create", **other, title="Tea", content=TEA) == 201


@OWNERS
async def test_a_search_finds_the_best_first_with_its_snippet(sdk: Sdk, kind: str) -> None:
    of = await owner(sdk, kind)
    id, *_ = of.values()
    tea = await add(sdk, of, "Tea", ["Nothing here.", TEA], about="tea")
    coffee = await add(sdk, of, "Coffee", f"{COFFEE} Some drink tea instead, of all the many things there are.")
    found = await sdk(f"{docs(of)}.search", **of, text="How long is green tea steeped?")
    assert [doc.id for doc in found.docs][:1] == [tea]
    assert {doc.id for doc in found.docs} == {tea, coffee}
    assert found.time > 0
    best = found.docs[0]
    assert (best.title, best.metadata, best.owner.id, best.owner.role) == ("Tea", {"about": "tea"}, id, kind)
    assert (best.snippet.index, best.snippet.content, best.snippet.embedding) == (1, TEA, None)
    distances = [doc.distance for doc in found.docs]
    assert distances == sorted(distances)
    assert 0 < distances[0] < distances[-1] < 1


@pytest.mark.parametrize(
    "request_of",
    [
        {"text": "tea", "lang": "en-US", "trigram_similarity_threshold": 0.3},
        {"text": "tea", "vector": [0.5, 0.5], "alpha": 0.7, "confidence": 0.2, "mmr_strength": 0.0, "k_multiplier": 5},
        {"text": "tea", "include_embeddings": False, "metadata_filter": {"about": "tea"}, "limit": 1},
    ],
    ids=["text", "hybrid", "filtered"],
)
async def test_the_sdk_s_searches_with_a_text_find_by_the_text(sdk: Sdk, request_of: dict[str, Any]) -> None:
    of = await owner(sdk, "agent")
    tea = await add(sdk, of, "Tea", TEA, about="tea")
    await add(sdk, of, "Coffee", COFFEE, about="coffee")
    assert [doc.id for doc in (await sdk("agents.docs.search", **of, **request_of)).docs] == [tea]


async def test_a_search_by_vector_alone_is_refused_in_this_version(sdk: Sdk) -> None:
    with pytest.raises(julep.BadRequestError, match="compares no vectors"):
        await sdk("agents.docs.search", **await owner(sdk, "agent"), vector=[0.1, 0.2])


async def test_a_search_applies_limit_and_filter_before_it_cuts(sdk: Sdk) -> None:
    of = await owner(sdk, "agent")
    for n in range(12):
        await add(sdk, of, f"Tea {n}", f"tea tea tea {n}", shelf=n)
    found = await sdk("agents.docs.search", **of, text="tea", limit=3)
    assert len(found.docs) == 3
    found = await sdk("agents.docs.search", **of, text="tea", limit=1, metadata_filter={"shelf": 11})
    assert [doc.metadata for doc in found.docs] == [{"shelf": 11}]
    assert (await sdk("agents.docs.search", **of, text="coffee")).docs == []


# --- in a chat ---


async def test_a_chat_gets_the_documents_of_agent_and_user_and_tells_which(sdk: Sdk) -> None:
    agent, drinker = await owner(sdk, "agent"), await owner(sdk, "user")
    tea = await add(sdk, agent, "Tea", TEA)
    mug = await add(sdk, drinker, "Mug", "Bob likes his tea in a blue mug.")
    await add(sdk, agent, "Coffee", COFFEE)
    session = await sdk.session(agent["agent_id"], user=drinker["user_id"])
    answer = await sdk.say(session, "How is tea made?")
    assert {doc.id for doc in answer.docs} == {tea, mug}
    assert {doc.owner.role for doc in answer.docs} == {"agent", "user"}
    sent = sdk.up.requests[-1].json["messages"][-1]["content"]
    assert TEA in sent
    assert "blue mug" in sent
    assert COFFEE not in sent
    assert sent.endswith("How is tea made?")
    assert await sdk.told(session) == ["user: How is tea made?", f"assistant: {answer.choices[0].message.content}"]


async def test_every_chunk_of_a_stream_names_the_documents(sdk: Sdk) -> None:
    agent = await owner(sdk, "agent")
    tea = await add(sdk, agent, "Tea", TEA)
    chunks = await sdk.hear(await sdk.session(agent["agent_id"]), "tea?")
    assert {tuple(doc.id for doc in chunk.docs) for chunk in chunks} == {(tea,)}


@pytest.mark.parametrize("by", ["request", "session"])
async def test_recall_false_searches_nothing(sdk: Sdk, by: str) -> None:
    agent = await owner(sdk, "agent")
    await add(sdk, agent, "Tea", TEA)
    session = await sdk.session(agent["agent_id"], extra_body={"recall": False} if by == "session" else {})
    answer = await sdk.say(session, "tea?", **({"recall": False} if by == "request" else {}))
    assert answer.docs == []
    assert sdk.up.requests[-1].json["messages"][-1] == user("tea?")


@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
async def test_recall_options_hold_in_every_mode(sdk: Sdk, mode: str) -> None:
    agent = await owner(sdk, "agent")
    await add(sdk, agent, "Tea", TEA, shelf="top")
    await add(sdk, agent, "More tea", "Black tea is steeped for five minutes.", shelf="top")
    await add(sdk, agent, "Old tea", "Old tea is thrown away.", shelf="bin")
    session = await sdk.session(
        agent["agent_id"], recall_options={"mode": mode, "limit": 1, "metadata_filter": {"shelf": "top"}}
    )
    answer = await sdk.say(session, "old tea?")
    assert [doc.metadata for doc in answer.docs] == [{"shelf": "top"}]


async def test_a_template_that_prints_the_documents_gets_them_and_no_other_place_does(sdk: Sdk) -> None:
    agent = await sdk.agent(default_system_template="{% for d in docs %}{{d.title}}: {{d.content[0]}}{% endfor %}")
    await add(sdk, {"agent_id": agent}, "Tea", TEA)
    session = await sdk.session(agent)
    await sdk.say(session, "tea?")
    assert sdk.up.requests[-1].json["messages"] == [{"role": "system", "content": f"Tea: {TEA}"}, user("tea?")]


async def test_a_template_that_does_not_print_the_documents_loses_none(sdk: Sdk) -> None:
    agent = await sdk.agent(default_system_template="Be {{agent.name}}.")
    await add(sdk, {"agent_id": agent}, "Tea", TEA)
    await sdk.say(await sdk.session(agent), "tea?")
    first, last = sdk.up.requests[-1].json["messages"]
    assert first["content"] == "Be Ada."
    assert TEA in last["content"]
