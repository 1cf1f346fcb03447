"""Entries and new messages as a list that every upstream takes."""

import json
import random

from proxy.context.transcript import NO_RESULT, Piece, call_ids, of_entry, repaired, without_tools
from proxy.types import Entry
from tests.context.histories import Message, calls, check_valid, piece, result, says, talk, user, words


def repair(*messages: Message) -> list[Message]:
    return [json.loads(one.raw) for one in repaired([piece(message) for message in messages], words)]


def test_a_list_without_calls_comes_back_as_it_is() -> None:
    assert repair(user("a"), says("b"), user("c")) == [user("a"), says("b"), user("c")]


def test_answered_calls_come_back_as_they_are() -> None:
    line = [user("a"), calls("1", "2"), result("1"), result("2"), says("b")]
    assert repair(*line) == line


def test_a_call_that_nobody_answered_gets_a_result() -> None:
    assert repair(user("a"), calls("1", "2"), result("1"), user("b")) == [
        user("a"), calls("1", "2"), result("1"), result("2", NO_RESULT), user("b"),
    ]  # fmt: skip


def test_calls_at_the_end_are_answered_too() -> None:
    assert repair(user("a"), calls("1"))[-1] == result("1", NO_RESULT)


def test_a_result_without_its_call_is_left_out() -> None:
    assert repair(result("1"), user("a"), says("b"), result("2")) == [user("a"), says("b")]


def test_a_result_that_comes_twice_is_sent_once() -> None:
    assert repair(calls("1"), result("1", "a"), result("1", "b")) == [calls("1"), result("1", "a")]


def test_a_result_that_came_after_the_talk_went_on_takes_its_place_behind_its_call() -> None:
    assert repair(calls("1", "2"), result("2"), user("a"), result("1"), says("b")) == [
        calls("1", "2"), result("2"), result("1"), user("a"), says("b"),
    ]  # fmt: skip


def test_a_result_that_came_before_its_call_is_left_out() -> None:
    assert repair(result("1", "early"), user("a"), calls("1")) == [user("a"), calls("1"), result("1", NO_RESULT)]


def test_the_same_id_may_be_used_again_later() -> None:
    line = [calls("1"), result("1", "a"), calls("1"), result("1", "b")]
    assert repair(*line) == line


def test_a_synthetic_result_has_a_price_and_no_place() -> None:
    made = repaired([piece(calls("1"), seq=5)], words)[1]
    assert made.seq is None
    assert made.tokens == piece(result("1", NO_RESULT)).tokens


def test_any_line_becomes_valid_and_stays_as_it_is_then() -> None:
    draw = random.Random(random.random())
    for _ in range(500):
        line = talk(draw, draw.randint(1, 12)).line
        cut = draw.randrange(len(line))
        messy = [one for one in line[cut:] if draw.random() < 0.8]
        once = repaired(messy, words)
        check_valid([json.loads(one.raw) for one in once])
        assert repaired(once, words) == once
        gone = [one for one in messy if one not in once]
        assert all(one.role == "tool" for one in gone)


def test_the_ids_of_calls_stand_in_their_order() -> None:
    assert call_ids(piece(calls("b", "a")).raw) == ("b", "a")
    assert call_ids(piece(user("a")).raw) == ()
    assert call_ids(b'{"role": "assistant", "tool_calls": null}') == ()


# --- calls of the old kind, and custom ones ---


OLD = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}}
OLD_RESULT = {"role": "function", "name": "look", "content": "42"}


def custom(id: str) -> Message:
    made = [{"id": id, "type": "custom", "custom": {"name": "shell", "input": "ls"}}]
    return {"role": "assistant", "content": None, "tool_calls": made}


def test_a_call_of_the_old_kind_and_its_result_stay_as_they_are() -> None:
    line = [user("a"), OLD, OLD_RESULT, says("b"), user("c"), OLD, user("d")]
    assert repair(*line) == line


def test_a_custom_call_is_answered_as_any_other() -> None:
    line = [user("a"), custom("1"), result("1"), says("b")]
    assert repair(*line) == line
    assert repair(user("a"), custom("1"), user("b")) == [user("a"), custom("1"), result("1", NO_RESULT), user("b")]


def test_without_tools_no_call_and_no_result_is_left_of_any_kind() -> None:
    mentions = says('what is a "function_call": {}?') | {"function_call": None}
    line = [user("a"), OLD, OLD_RESULT, calls("1"), result("1"), custom("2"), result("2"), mentions, user("c")]
    left = [json.loads(one.raw) for one in without_tools([piece(message) for message in line], None)]
    assert left == [user("a"), mentions, user("c")]


def test_without_tools_what_the_next_result_answers_stays() -> None:
    def left(*line: Message, answered: str | None = None) -> list[Message]:
        return [json.loads(one.raw) for one in without_tools([piece(message) for message in line], answered)]

    assert left(user("a"), OLD, OLD_RESULT, OLD) == [user("a"), OLD]
    assert left(user("a"), calls("1", "2"), result("1"), answered="2") == [user("a"), calls("1", "2"), result("1")]
    assert left() == []


def test_an_entry_becomes_a_piece_with_its_place() -> None:
    entry = Entry(seq=4, role="user", raw=b"{}", tokens=7, total=70, calls=2, turn=3)
    assert of_entry(entry) == Piece("user", b"{}", 7, 4, 3, 2)
