"""Whatever part of the conversation a client sends, the model gets all of it once and the store keeps it once."""

import anyio
import pytest

from tests.acceptance.asking import asks_for, assistant, call, received, result, spoken, system, user
from tests.acceptance.stage import Stage, Talk
from tests.scripted import calls, calls_many, gated, says, status

pytestmark = pytest.mark.anyio

ONE = ["user: one", "assistant: echo: one"]
TWO = ["user: two", "assistant: echo: two"]
THREE = ["user: three", "assistant: echo: three"]


@pytest.fixture
async def talk(echo: Talk) -> Talk:
    """A session "s" with two turns."""
    for text in ("one", "two"):
        await echo[1].ask(text, to="s")
    return echo


# --- (a) the session goes on ---


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_sends_its_newest_message_gets_the_history_added(echo: Talk, stream: bool) -> None:
    up, proxied = echo
    first = await proxied.ask("one", to="s", stream=stream)
    second = await proxied.ask("two", to="s", stream=stream)
    assert [received(request) for request in up.requests] == [["user: one"], [*ONE, "user: two"]]
    assert (first.text, second.text) == ("echo: one", "echo: two")
    assert proxied.stored("s") == [*ONE, *TWO]
    told = [(reply.headers["x-session-turn"], reply.headers["x-session-branch"]) for reply in (first, second)]
    assert told == [("1", "1"), ("2", "1")]


async def test_a_full_resend_stores_only_what_is_new(talk: Talk) -> None:
    up, proxied = talk
    await proxied.ask("one", assistant("echo: one"), "two", assistant("echo: two"), "three", to="s")
    assert received(up.requests[-1]) == [*ONE, *TWO, "user: three"]
    assert proxied.stored("s") == [*ONE, *TWO, *THREE]
    assert proxied.branches("s") == 1


async def test_a_trimmed_window_is_sent_with_what_was_trimmed(talk: Talk) -> None:
    up, proxied = talk
    await proxied.ask("two", assistant("echo: two"), "three", to="s")
    assert received(up.requests[-1]) == [*ONE, *TWO, "user: three"]
    assert proxied.stored("s") == [*ONE, *TWO, *THREE]


async def test_a_window_that_begins_with_an_answer_continues_too(talk: Talk) -> None:
    up, proxied = talk
    await proxied.ask(assistant("echo: two"), "three", to="s")
    assert received(up.requests[-1]) == [*ONE, *TWO, "user: three"]
    assert proxied.stored("s") == [*ONE, *TWO, *THREE]


async def test_a_tool_loop_that_resends_only_its_own_run_is_joined_to_the_session(stage: Stage) -> None:
    up, proxied = await stage(says("hello"), calls("clock", {}), says("noon"))
    await proxied.ask("hi", to="s")
    await proxied.ask("time?", to="s")
    await proxied.ask("time?", asks_for(call("clock", {})), result("12:00"), to="s")
    run = ["user: time?", "assistant: clock({})", "tool call_1: 12:00"]
    assert received(up.requests[-1]) == ["user: hi", "assistant: hello", *run]
    assert proxied.stored("s") == ["user: hi", "assistant: hello", *run, "assistant: noon"]


async def test_small_differences_of_an_echo_do_not_make_a_message_new(talk: Talk) -> None:
    up, proxied = talk
    again = [
        {"content": [{"type": "text", "text": " one\n"}], "role": "user"},
        assistant("<think>hm</think>\n\necho: one", id="msg_1", annotations=[]),
        user("two"),
        assistant("echo: two "),
    ]
    await proxied.ask(*again, "three", to="s")
    assert received(up.requests[-1]) == [*ONE, *TWO, "user: three"]
    assert proxied.stored("s") == [*ONE, *TWO, *THREE]


async def test_several_new_messages_are_stored_in_their_order(echo: Talk) -> None:
    up, proxied = echo
    await proxied.ask(user("one", name="ann"), user("two", name="bob"), to="s")
    assert received(up.requests[0]) == ["user: one", "user: two"]
    assert proxied.stored("s") == ["user: one", "user: two", "assistant: echo: two"]


async def test_the_same_question_asked_again_is_a_new_turn(talk: Talk) -> None:
    up, proxied = talk
    await proxied.ask("two", to="s")
    assert received(up.requests[-1]) == [*ONE, *TWO, "user: two"]
    assert proxied.stored("s") == [*ONE, *TWO, *TWO]


# --- (b) and (c) the conversation is changed ---


async def test_an_edited_message_starts_a_branch_and_the_old_tail_stays(talk: Talk) -> None:
    up, proxied = talk
    reply = await proxied.ask("one", assistant("echo: one"), "deux", to="s")
    assert reply.headers["x-session-branch"] == "2"
    assert received(up.requests[-1]) == [*ONE, "user: deux"]
    assert proxied.stored("s") == [*ONE, "user: deux", "assistant: echo: deux"]
    assert proxied.stored("s", branch=1) == [*ONE, *TWO]
    await proxied.ask("trois", to="s")
    assert received(up.requests[-1]) == [*ONE, "user: deux", "assistant: echo: deux", "user: trois"]


async def test_a_regeneration_starts_a_branch_before_the_question(stage: Stage) -> None:
    up, proxied = await stage(says("a"), says("b"), says("c"))
    await proxied.ask("one", to="s")
    await proxied.ask("two", to="s")
    reply = await proxied.ask("one", assistant("a"), "two", to="s")
    assert (reply.text, reply.headers["x-session-branch"]) == ("c", "2")
    assert received(up.requests[-1]) == ["user: one", "assistant: a", "user: two"]
    assert proxied.stored("s") == ["user: one", "assistant: a", "user: two", "assistant: c"]
    assert proxied.stored("s", branch=1)[-1] == "assistant: b"


async def test_an_edited_first_message_starts_a_branch_from_the_root(talk: Talk) -> None:
    up, proxied = talk
    await proxied.ask("un", assistant("echo: one"), "two", to="s")
    assert received(up.requests[-1]) == ["user: un", "assistant: echo: one", "user: two"]
    assert proxied.stored("s") == ["user: un", "assistant: echo: one", *TWO]
    assert proxied.stored("s", branch=1) == [*ONE, *TWO]


async def test_a_client_can_go_back_to_an_older_branch(talk: Talk) -> None:
    up, proxied = talk
    await proxied.ask("one", assistant("echo: one"), "deux", to="s")
    reply = await proxied.ask("one", assistant("echo: one"), "two", assistant("echo: two"), "three", to="s")
    assert reply.headers["x-session-branch"] == "1"
    assert received(up.requests[-1]) == [*ONE, *TWO, "user: three"]
    await proxied.ask("four", to="s")
    assert received(up.requests[-1]) == [*ONE, *TWO, *THREE, "user: four"]


# --- (d) everything is new ---


async def test_a_history_from_elsewhere_is_taken_over_whole(echo: Talk) -> None:
    up, proxied = echo
    await proxied.ask("bonjour", assistant("salut"), "one", to="s")
    assert received(up.requests[0]) == ["user: bonjour", "assistant: salut", "user: one"]
    assert proxied.stored("s") == ["user: bonjour", "assistant: salut", *ONE]


async def test_a_history_from_elsewhere_is_added_to_a_session_that_knows_nothing_of_it(talk: Talk) -> None:
    up, proxied = talk
    await proxied.ask("bonjour", assistant("salut"), "three", to="s")
    assert received(up.requests[-1]) == [*ONE, *TWO, "user: bonjour", "assistant: salut", "user: three"]
    assert proxied.stored("s") == [*ONE, *TWO, "user: bonjour", "assistant: salut", *THREE]


# --- modes ---


async def test_mode_append_takes_everything_as_new(talk: Talk) -> None:
    up, proxied = talk
    again = ["one", assistant("echo: one"), "two"]
    await proxied.ask(*again, to="s", headers={"X-Session-Mode": "append"})
    assert received(up.requests[-1]) == [*ONE, *TWO, *ONE, "user: two"]
    assert proxied.stored("s") == [*ONE, *TWO, *ONE, *TWO]


async def test_mode_resend_never_adds_to_what_the_client_sent(talk: Talk) -> None:
    up, proxied = talk
    resend = {"X-Session-Mode": "resend"}
    await proxied.ask("new topic", to="s", headers=resend)
    assert received(up.requests[-1]) == ["user: new topic"]
    assert proxied.stored("s") == ["user: new topic", "assistant: echo: new topic"]
    await proxied.ask("one", assistant("echo: one"), "two", assistant("echo: two"), "three", to="s", headers=resend)
    assert received(up.requests[-1]) == [*ONE, *TWO, "user: three"]
    assert proxied.stored("s", branch=1) == [*ONE, *TWO, *THREE]
    await proxied.ask("one", to="s", headers=resend)
    assert received(up.requests[-1]) == ["user: one"]


async def test_mode_observe_forwards_what_came_and_stores_the_turn(talk: Talk) -> None:
    up, proxied = talk
    sent = [system("be brief"), user("two"), assistant("echo: two"), user("three")]
    await proxied.ask(*sent, to="s", headers={"X-Session-Mode": "observe"})
    assert up.requests[-1].json["messages"] == sent
    assert proxied.stored("s") == [*ONE, *TWO, *THREE]


async def test_observed_requests_of_a_session_run_at_once(stage: Stage) -> None:
    up, proxied = await stage(gated("ok"))

    async def ask(text: str) -> None:
        reply = await proxied.ask(text, to="s", headers={"X-Session-Mode": "observe"}, stream=True)
        assert reply.text == "ok"

    async with anyio.create_task_group() as group:
        for text in ("one", "two", "three"):
            group.start_soon(ask, text)
        await up.wait_requests(3)
        assert up.in_flight == 3
        for _ in range(6):
            up.gate.release()
    assert sorted(proxied.stored("s")) == [*["assistant: ok"] * 3, "user: one", "user: three", "user: two"]
    assert proxied.turns("s") == ["complete"] * 3


# --- instructions ---


async def test_instructions_are_inherited_replaced_and_cleared(echo: Talk) -> None:
    up, proxied = echo
    await proxied.ask(system("be brief"), "one", to="s")
    await proxied.ask("two", to="s")
    assert received(up.requests[-1]) == ["system: be brief", *ONE, "user: two"]
    await proxied.ask({"role": "developer", "content": "be long"}, system("be kind"), "three", to="s")
    assert received(up.requests[-1]) == ["developer: be long", "system: be kind", *ONE, *TWO, "user: three"]
    await proxied.ask(system(""), "four", to="s")
    assert received(up.requests[-1])[:2] == ONE
    await proxied.ask("five", to="s")
    assert received(up.requests[-1])[:2] == ONE
    assert not any("system" in line or "developer" in line for line in proxied.stored("s"))


async def test_a_branch_inherits_the_instructions_of_the_turn_it_starts_after(echo: Talk) -> None:
    up, proxied = echo
    await proxied.ask(system("first"), "one", to="s")
    await proxied.ask(system("second"), "two", to="s")
    await proxied.ask("one", assistant("echo: one"), "deux", to="s")
    assert received(up.requests[-1]) == ["system: first", *ONE, "user: deux"]


async def test_a_later_system_message_is_an_ordinary_message(echo: Talk) -> None:
    up, proxied = echo
    await proxied.ask("one", system("now rhyme"), "two", to="s")
    await proxied.ask("three", to="s")
    assert received(up.requests[-1])[:3] == ["user: one", "system: now rhyme", "user: two"]


# --- tool calls ---


async def test_an_unanswered_call_is_repaired_on_the_way_out_and_never_in_the_store(stage: Stage) -> None:
    up, proxied = await stage(calls_many([("clock", {}, "a"), ("date", {}, "b")]), says("fine"))
    await proxied.ask("time?", to="s")
    await proxied.ask(result("12:00", "b"), "never mind", to="s")
    sent = up.requests[-1].json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool", "user"]
    assert {message["tool_call_id"] for message in sent[2:4]} == {"a", "b"}
    assert proxied.stored("s")[1:] == [
        "assistant: clock({}) date({})", "tool b: 12:00", "user: never mind", "assistant: fine"
    ]  # fmt: skip


async def test_results_that_answer_only_some_calls_are_completed_on_the_way_out(stage: Stage) -> None:
    up, proxied = await stage(calls_many([("clock", {}, "a"), ("date", {}, "b")]), says("fine"))
    await proxied.ask("now?", to="s")
    await proxied.ask(result("May 1", "b"), to="s")
    sent = up.requests[-1].json["messages"]
    assert {message["tool_call_id"] for message in sent[2:]} == {"a", "b"}
    assert proxied.stored("s") == ["user: now?", "assistant: clock({}) date({})", "tool b: May 1", "assistant: fine"]


async def test_results_may_be_resent_in_another_order(stage: Stage) -> None:
    up, proxied = await stage(calls_many([("clock", {}, "a"), ("date", {}, "b")]), says("fine"))
    asked = asks_for(call("clock", {}, "a"), call("date", {}, "b"))
    await proxied.ask("now?", to="s")
    await proxied.ask(result("12:00", "a"), result("May 1", "b"), to="s")
    stored = proxied.stored("s")
    await proxied.ask("now?", asked, result("May 1", "b"), result("12:00", "a"), assistant("fine"), "thanks", to="s")
    assert received(up.requests[-1]) == [*stored, "user: thanks"]
    assert proxied.branches("s") == 1


@pytest.mark.parametrize("mode", ["auto", "resend"])
async def test_calls_that_a_client_gave_other_ids_keep_the_ids_of_the_model(stage: Stage, mode: str) -> None:
    up, proxied = await stage(calls("clock", {"zone": "utc"}, id="model_1"), says("noon"), says("bye"))
    headers = {"X-Session-Mode": mode}
    asked = asks_for(call("clock", {"zone": "utc"}, "client_1"))
    await proxied.ask("time?", to="s", headers=headers)
    await proxied.ask("time?", asked, result("12:00", "client_1"), to="s", headers=headers)
    told = ["user: time?", 'assistant: clock({"zone": "utc"})', "tool model_1: 12:00"]
    assert received(up.requests[-1]) == told
    assert up.requests[-1].json["messages"][1]["tool_calls"][0]["id"] == "model_1"
    await proxied.ask("time?", asked, result("12:00", "client_1"), assistant("noon"), "bye", to="s", headers=headers)
    assert received(up.requests[-1]) == [*told, "assistant: noon", "user: bye"]
    assert proxied.branches("s") == 1


# --- the stored copy wins ---


async def test_what_a_client_lost_of_an_answer_is_restored(stage: Stage) -> None:
    answer = {"role": "assistant", "content": "noon", "reasoning_content": "hm", "vendor": {"signature": "x"}}
    whole = {"id": "chatcmpl-1", "choices": [{"index": 0, "message": answer, "finish_reason": "stop"}]}
    up, proxied = await stage(status(200, json=whole), says("later"), says("end"))
    await proxied.ask("time?", to="s")
    await proxied.ask("time?", assistant("noon"), "and now?", to="s")
    assert up.requests[-1].json["messages"][1] == answer
    await proxied.ask("date?", assistant("noon"), "and now?", to="s", headers={"X-Session-Mode": "resend"})
    assert up.requests[-1].json["messages"][1] == answer
    assert spoken(proxied.messages("s")[0]) == "user: date?"
