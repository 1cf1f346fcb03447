"""Failures in one line."""

import pytest

from proxy.cli.chatting import problems
from proxy.cli.chatting.client import Failed

LINES = [
    (
        Failed(403, "Could not validate API KEY", "invalid_api_key"),
        "the key is missing, or not accepted; start the chat",
    ),
    (Failed(401, "Incorrect API key provided: sk-..."), "the key is missing, or not accepted; start the chat"),
    (Failed(403, "add this host", "forbidden"), "add this host"),
    (Failed(404, "no upstream serves it", "model_not_found"), "no upstream serves it; /model lists what there is"),
    (Failed(409, "busy", "session_busy"), "busy; somebody else asks in this session; send it again, or take another"),
    (Failed(502, "the upstream refused the connection", "upstream_unreachable"), "; check the model server, then send"),
    (Failed(0, "no proxy answers at x", "no_proxy"), "no proxy answers at x; start one with `session-proxy serve`"),
    (Failed(502, "it refused; check that it runs"), "it refused; check that it runs; send it again"),
    (Failed(503, "the server is stopping; send it again"), "the server is stopping; send it again"),
    (Failed(400, "n must be\n a number.\x1b"), "n must be a number"),
]


@pytest.mark.parametrize(("failure", "begins"), LINES, ids=[str(failure.code) for failure, _ in LINES])
def test_a_failure_says_what_to_do(failure: Failed, begins: str) -> None:
    said = problems.line(failure)
    assert begins in said
    assert "\n" not in said
    assert said.count("again") <= 1


def test_an_answer_that_broke_off_says_so_once() -> None:
    assert problems.broken("the upstream went. ") == "the answer broke off: the upstream went; send it again"
    assert problems.broken("it went; ask again") == "the answer broke off: it went; ask again"
