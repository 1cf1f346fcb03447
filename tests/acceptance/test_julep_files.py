"""The julep SDK, unchanged: files, and the jobs of what was made."""

import base64
import hashlib
import random
import uuid
from dataclasses import replace
from typing import Any

import julep
import pytest

from proxy.store.files import PIECE
from tests.acceptance.julep_client import Play, Sdk, connected
from tests.acceptance.stage import Stage
from tests.scripted import echoes

pytestmark = pytest.mark.anyio

HELLO = base64.b64encode(b"hello").decode()
HASH = hashlib.sha256(b"hello").hexdigest()
LARGE = random.Random(1).randbytes(3 * PIECE + 1)


async def test_a_file_is_made_and_read_with_its_content(sdk: Sdk) -> None:
    given = {"name": "hello.txt", "description": "a greeting", "mime_type": "text/plain", "project": "shop"}
    made = await sdk("files.create", content=HELLO, **given)
    shown = made.to_dict()
    assert shown | given == shown
    assert (made.content, made.size, made.hash) == (HELLO, 5, HASH)
    assert uuid.UUID(made.id).version == 4 and made.created_at.tzinfo is not None
    assert await sdk("files.get", made.id) == made
    assert await sdk.status("files.create", content=HELLO, **given) == 201, "the same once more is another file"


async def test_a_file_has_defaults_for_what_was_not_set(sdk: Sdk) -> None:
    made = await sdk("files.create", name="f", content=HELLO)
    assert (made.description, made.mime_type, made.project) == ("", None, None)


async def test_files_are_a_plain_list_without_contents(sdk: Sdk) -> None:
    made = [await sdk("files.create", name=f"f{n}", content=HELLO) for n in range(4)]
    listed = await sdk("files.list")
    assert isinstance(listed, list)
    assert [file.id for file in listed] == [file.id for file in made[::-1]]
    assert {(file.content, file.size, file.hash) for file in listed} == {(None, 5, HASH)}
    assert (listed[0].name, listed[0].created_at) == ("f3", made[3].created_at)
    part = await sdk("files.list", extra_query={"limit": 2, "offset": 1})
    assert [file.name for file in part] == ["f2", "f1"]
    assert await sdk("files.list", extra_query={"offset": 4}) == []


async def test_a_deleted_file_is_gone(sdk: Sdk) -> None:
    made = await sdk("files.create", name="f", content=HELLO)
    answer = await sdk("files.delete", made.id)
    assert (answer.id, answer.jobs) == (made.id, [])
    assert await sdk("files.list") == []
    for method in ("files.get", "files.delete", "jobs.get"):
        with pytest.raises(julep.NotFoundError):
            await sdk(method, made.id)


@pytest.mark.parametrize("lines", [False, True], ids=["one line", "lines"])
async def test_a_large_file_comes_back_piece_by_piece(sdk: Sdk, lines: bool) -> None:
    content = base64.encodebytes(LARGE) if lines else base64.b64encode(LARGE)
    name = 'a "content":"" of quotes'
    made = await sdk("files.create", name=name, content=content.decode(), mime_type="image/png")
    read = await sdk("files.get", made.id)
    assert read == made
    assert base64.b64decode(read.content, validate=True) == LARGE
    assert (read.size, read.hash, read.name) == (len(LARGE), hashlib.sha256(LARGE).hexdigest(), name)
    await sdk("files.delete", made.id)


BAD = {
    "no base64": "hello!",
    "a URL's alphabet": "-_-_",
    "no padding": "aGVsbG8",
    "padding in the middle": "aGVs=bG8",
    "two texts": HELLO + HELLO,
    "a data URL": f"data:text/plain;base64,{HELLO}",
    "another script": "äöü=",
    "bad far inside": "A" * 300_000 + "=" + "A" * 300_003,
    "nothing but blanks": " \n",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
async def test_what_is_no_base64_is_refused_and_nothing_is_kept(sdk: Sdk, content: str) -> None:
    with pytest.raises(julep.BadRequestError, match=r"content is (not base64|empty).* base64|alphabet"):
        await sdk("files.create", name="f", content=content)
    assert await sdk("files.list") == []


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "x" * 256}),
        ("content", {"content": ""}),
        ("content", {"content": 5}),
        ("mime_type", {"mime_type": ""}),
        ("description", {"description": "x" * 16_001}),
    ],
    ids=lambda one: str(one)[:30],
)
async def test_a_field_that_does_not_fit_is_named(sdk: Sdk, field: str, given: dict[str, Any]) -> None:
    with pytest.raises(julep.UnprocessableEntityError, match=field):
        await sdk("files.create", **{"name": "f", "content": HELLO, **given})


async def test_a_file_may_be_as_large_as_a_body(play: Play) -> None:
    sdk = await play(echoes(), server={"max_body_mb": 2})
    assert (await sdk("files.create", name="f", content=base64.b64encode(LARGE).decode())).size == len(LARGE)
    with pytest.raises(julep.APIStatusError, match=r"server\.max_body_mb") as caught:
        await sdk("files.create", name="f", content="A" * (2 << 20))
    assert caught.value.status_code == 413


async def test_what_was_made_is_a_job_that_is_done(sdk: Sdk) -> None:
    agent = await sdk("agents.create", name="Ada")
    made: dict[str, Any] = {
        "agent": agent,
        "user": await sdk("users.create", name="Bob"),
        "session": await sdk("sessions.create", agent=agent.id),
        "doc": await sdk("agents.docs.create", agent_id=agent.id, title="T", content="tea"),
        "file": await sdk("files.create", name="f", content=HELLO),
    }
    for kind, thing in made.items():
        job = await sdk("jobs.get", thing.id)
        assert (job.id, job.name, job.state) == (thing.id, kind, "succeeded")
        assert (job.progress, job.has_progress) == (100.0, False)
        assert job.created_at == job.updated_at == thing.created_at
        assert job.reason


@pytest.mark.parametrize("id", [str(uuid.uuid4()), "nobody", "named"])
async def test_an_unknown_job_is_told_that_nothing_runs(sdk: Sdk, id: str) -> None:
    await sdk("sessions.create_or_update", "named", agent=await sdk.agent())
    with pytest.raises(julep.NotFoundError, match="nothing runs in the background") as caught:
        await sdk("jobs.get", id)
    body: Any = caught.value.body
    assert body["error"]["code"] == "job_not_found"


async def test_a_stranger_s_files_and_jobs_are_not_found(stage: Stage) -> None:
    up, proxied = await stage(echoes())
    stranger = replace(proxied, key=str(uuid.uuid4()))
    async with connected(up, proxied) as mine, connected(up, stranger) as theirs:
        file = (await mine("files.create", name="f", content=HELLO)).id
        await theirs("files.create", name="g", content=HELLO)
        for method, id in (("files.get", file), ("files.delete", file), ("jobs.get", file)):
            told: list[Any] = []
            for asked in (id, str(uuid.uuid4())):
                with pytest.raises(julep.NotFoundError) as caught:
                    await theirs(method, asked)
                told.append(caught.value.body)
            assert told[0] == told[1]
        assert [other.name for other in await theirs("files.list")] == ["g"]
        assert (await mine("files.get", file)).content == HELLO
