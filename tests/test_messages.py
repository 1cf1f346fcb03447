"""A request's messages: digests, and results in the order of their calls."""

import json
import random
from typing import Any

import pytest

from proxy import messages
from proxy.errors import BadRequest


def given(*values: dict[str, Any]) -> list[tuple[bytes, dict[str, Any]]]:
    return [(json.dumps(value).encode(), value) for value in values]


def asks(*ids: str) -> dict[str, Any]:
    made = [{"id": id, "type": "function", "function": {"name": id, "arguments": "{}"}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": made}


def answers(id: str, text: str = "") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": text or f"result of {id}"}


def test_results_stand_in_the_order_of_their_calls_however_they_came() -> None:
    draw = random.Random()
    for _ in range(200):
        groups = [[f"c{group}{n}" for n in range(draw.randint(1, 5))] for group in range(draw.randint(1, 4))]
        stored, *sent = groups
        values: list[dict[str, Any]] = []
        expected: list[str | None] = []
        for n, group in enumerate([stored, *sent]):
            if n:
                values.append(asks(*group))
                expected.append(None)
            values += [answers(id) for id in draw.sample(group, len(group))]
            expected += group
        read = messages.read(given(*values), stored, any_call=False)
        assert [one.answers for one in read] == expected
        assert [json.loads(one.raw) for one in read] == [one.value for one in read]


def test_a_result_is_known_by_its_place_among_the_calls_not_by_its_id() -> None:
    first = messages.read(given(asks("a", "b"), answers("b", "x")), (), any_call=False)
    again = messages.read(given(asks("c", "d"), answers("d", "x")), (), any_call=False)
    other = messages.read(given(asks("c", "d"), answers("c", "x")), (), any_call=False)
    assert first[1].digest == again[1].digest != other[1].digest


def test_a_result_that_answers_nothing_is_refused_unless_anything_may_be_answered() -> None:
    said = {"role": "assistant", "content": "no"}
    for values in ([answers("x")], [asks("a"), answers("x")], [asks("a"), said, answers("a")]):
        with pytest.raises(BadRequest, match="tool call") as caught:
            messages.read(given(*values), ("b",), any_call=False)
        assert caught.value.param == f"messages[{len(values) - 1}].tool_call_id"
        assert messages.read(given(*values), ("b",), any_call=True)[-1].answers == values[-1]["tool_call_id"]
