"""A request's messages, read once: their digests, and results in the order of the calls that they answer. Pure."""

from collections.abc import Sequence
from typing import Any

from proxy.context.transcript import call_ids
from proxy.errors import BadRequest
from proxy.reconcile import digest
from proxy.types import Sent


def read(given: Sequence[tuple[bytes, dict[str, Any]]], last_calls: Sequence[str], *, any_call: bool) -> list[Sent]:
    """The messages with their digests. A result is placed by the call it answers, in the request or among `last_calls`,
    the stored ones; the results of one group come in the order of its calls. Raises BadRequest for a result that
    answers no known call, unless `any_call` may be answered."""
    sent: list[Sent] = []
    calls = last_calls
    for n, (raw, value) in enumerate(given):
        role = str(value["role"])
        if role == "tool":
            answers = str(value["tool_call_id"])
            if answers not in calls and any_call:
                calls = (answers,)
            if answers not in calls:
                raise BadRequest(
                    f"messages[{n}] answers the tool call {answers[:64]!r}, which neither this request nor the "
                    "session's last group of calls makes; send the assistant message with the call before it",
                    param=f"messages[{n}].tool_call_id",
                )
            sent.append(Sent(role, raw, value, digest(value, calls.index(answers)), answers=answers))
            continue
        made = call_ids(raw) if value.get("tool_calls") else ()
        calls = made or (calls if role != "assistant" else ())
        sent.append(Sent(role, raw, value, digest(value), made))
    return _in_call_order(sent, last_calls) if len(sent) > 1 else sent


def _in_call_order(sent: list[Sent], last_calls: Sequence[str]) -> list[Sent]:
    """Each run of results sorted as the calls stand that it answers, stored ones for a run that comes first."""
    out: list[Sent] = []
    run: list[Sent] = []
    place = {call: n for n, call in enumerate(last_calls)}
    for message in sent:
        if message.role == "tool":
            run.append(message)
            continue
        out += sorted(run, key=lambda result: place.get(result.answers or "", 0))
        run = []
        out.append(message)
        if message.calls:
            place = {call: n for n, call in enumerate(message.calls)}
    return out + sorted(run, key=lambda result: place.get(result.answers or "", 0))
