"""A reply that was cut short is kept as far as it came, and stands in no client's way."""

from typing import Any

import pytest

from tests import faults
from tests.acceptance.asking import Proxied, assistant, received, user
from tests.acceptance.stage import Stage
from tests.scripted import Exchange, delta, says

pytestmark = pytest.mark.anyio

PARTIAL = {"on_upstream_break": "partial"}
CUT = ["user: count", "assistant: one two three [incomplete]"]
CUT_SENT = ["user: count", "assistant: one two three"]


async def cut_short(proxied: Proxied, session: str = "s") -> None:
    """A turn whose reply "one two three four..." breaks off after "three"."""
    reply = await proxied.ask("count", to=session, stream=True)
    assert reply.text == "one two three"
    assert not reply.done
    assert reply.error["code"] == "upstream_broken"
    assert proxied.stored(session)[-2:] == CUT
    assert proxied.turns(session)[-1] == "incomplete"


async def test_a_delta_client_goes_on_after_a_reply_that_was_cut_short(stage: Stage) -> None:
    script = [faults.cut_mid_stream(4), says("four")]
    up, proxied = await stage(*script, sessions=PARTIAL)
    await cut_short(proxied)
    await proxied.ask("go on", to="s")
    assert received(up.requests[-1]) == [*CUT_SENT, "user: go on"]
    assert proxied.stored("s") == [*CUT, "user: go on", "assistant: four"]


@pytest.mark.parametrize("echo", ["one two three", "one two", "one two three four five", " one two thr"])
async def test_an_echo_of_it_may_be_shorter_or_longer(stage: Stage, echo: str) -> None:
    script = [faults.cut_mid_stream(4), says("four")]
    up, proxied = await stage(*script, sessions=PARTIAL)
    await cut_short(proxied)
    await proxied.ask("count", assistant(echo), "go on", to="s")
    assert received(up.requests[-1]) == [*CUT_SENT, "user: go on"]
    assert proxied.branches("s") == 1


async def test_an_echo_that_says_something_else_is_an_edit(stage: Stage) -> None:
    script = [faults.cut_mid_stream(4), says("four")]
    up, proxied = await stage(*script, sessions=PARTIAL)
    await cut_short(proxied)
    await proxied.ask("count", assistant("uno dos"), "go on", to="s")
    assert received(up.requests[-1]) == ["user: count", "assistant: uno dos", "user: go on"]
    assert proxied.stored("s", branch=1) == CUT


@pytest.mark.parametrize("resend", [False, True])
async def test_the_same_message_again_takes_the_place_of_the_cut_turn(stage: Stage, resend: bool) -> None:
    script = [says("hello"), faults.cut_mid_stream(4), says("one to ten")]
    up, proxied = await stage(*script, sessions=PARTIAL)
    await proxied.ask("hi", to="s")
    await cut_short(proxied)
    before: list[str | dict[str, Any]] = ["hi", assistant("hello")] if resend else []
    await proxied.ask(*before, "count", to="s")
    assert received(up.requests[-1]) == ["user: hi", "assistant: hello", "user: count"]
    assert proxied.stored("s") == ["user: hi", "assistant: hello", "user: count", "assistant: one to ten"]
    assert proxied.stored("s", branch=1)[-2:] == CUT


async def test_the_very_first_turn_can_be_taken_again_too(stage: Stage) -> None:
    script = [faults.cut_mid_stream(4), says("one to ten")]
    up, proxied = await stage(*script, sessions=PARTIAL)
    await cut_short(proxied)
    await proxied.ask("count", to="s")
    assert received(up.requests[-1]) == ["user: count"]
    assert proxied.stored("s") == ["user: count", "assistant: one to ten"]


async def test_another_message_does_not_take_its_place(stage: Stage) -> None:
    script = [faults.cut_mid_stream(4), says("one to ten")]
    up, proxied = await stage(*script, sessions=PARTIAL)
    await cut_short(proxied)
    await proxied.ask(user("count", name="bob"), to="s")
    assert received(up.requests[-1]) == [*CUT_SENT, "user: count"]


async def cut_call(exchange: Exchange) -> None:
    """Half of a tool call, after a word of text."""
    await exchange.start_stream()
    start = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "clock", "arguments": '{"zo'}}
    for part in ({"role": "assistant", "content": "Well"}, {"tool_calls": [start]}):
        await exchange.event(delta(exchange.request, part))
    exchange.hang_up()


async def test_a_tool_call_that_was_cut_short_is_never_stored(stage: Stage) -> None:
    up, proxied = await stage(cut_call, says("noon"), sessions=PARTIAL)
    reply = await proxied.ask("time?", to="s", stream=True)
    assert (reply.text, reply.done) == ("Well", False)
    assert proxied.messages("s") == [user("time?"), assistant("Well")]
    await proxied.ask("go on", to="s", stream=True)
    assert up.requests[-1].json["messages"] == [user("time?"), assistant("Well"), user("go on")]
