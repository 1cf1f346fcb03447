"""Whatever was said comes and goes byte for byte: any text, any JSON, spelt in any way."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from proxy.types import Instructions
from tests.archive.stores import ODD, exported, imported, opened, rows, said, turn
from tests.archive.test_lines import JSON, spelt
from tests.store.saying import tenant


def message(role: str) -> st.SearchStrategy[dict[str, Any]]:
    text = st.text() | st.just(ODD)
    part = st.fixed_dictionaries({"type": st.just("text"), "text": text}) | st.fixed_dictionaries(
        {"type": st.text(max_size=3).map("x{}".format), "data": JSON}
    )
    content = text | st.lists(part, max_size=3) | st.none()
    rest = st.dictionaries(st.text(max_size=4).map("x{}".format), JSON, max_size=2)
    return st.builds(lambda content, rest: {"role": role, "content": content, **rest}, content, rest)


def calling(arguments: list[Any]) -> dict[str, Any]:
    made = [{"id": f"c{n}", "type": "function", "function": {"name": "look", "arguments": raw.decode()}}
            for n, raw in enumerate(arguments)]  # fmt: skip
    return {"role": "assistant", "content": None, "tool_calls": made}


CALLING = st.lists(spelt(), min_size=1, max_size=3).map(calling)
MESSAGES = st.lists(spelt(message("user") | message("assistant") | CALLING), min_size=1, max_size=4)


def test_any_messages_come_and_go_byte_for_byte(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        stack = opened(tmp_path / "a.db")
        db = runner.run(stack.__aenter__())
        tenants = itertools.count()

        @example_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(MESSAGES, min_size=1, max_size=3), spelt())
        def holds(turns: list[list[bytes]], instructions: bytes) -> None:
            runner.run(moved(turns, instructions))

        async def moved(turns: list[list[bytes]], instructions: bytes) -> None:
            here, there = [await tenant(db, f"tenant {next(tenants)}") for _ in range(2)]
            for raws in turns:
                fields = {"instructions": Instructions(b'{"a":' + instructions + b"}", 1), "scope": here}
                await turn(db, "s", *map(said, raws), **fields)
            data = await exported(db, here)
            assert [one.problem for one in await imported(db, data, there)] == [None]
            assert await exported(db, there) == data
            assert await rows(db, there) == await rows(db, here)

        holds()
        runner.run(stack.__aexit__(None, None, None))
