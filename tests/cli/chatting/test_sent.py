"""What was sent, as a bar and a legend."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from proxy.cli.chatting.screen import lines
from proxy.cli.chatting.sent import Ledger, context, documents, shares, titled


@given(st.lists(st.integers(0, 10**9), max_size=8), st.integers(0, 100))
def test_the_columns_add_up_and_nothing_is_hidden(amounts: list[int], width: int) -> None:
    given_ = shares(amounts, width)
    there = [amount > 0 for amount in amounts]
    fits = 0 < sum(there) <= width
    assert sum(given_) == (width if fits else 0)
    assert [columns > 0 for columns in given_] == (there if fits else [False] * len(amounts))
    for one, other, columns, others in zip(amounts, amounts[1:], given_, given_[1:], strict=False):
        assert (one <= other) <= (columns <= others + 1), "what is more is not narrower"


LEDGER = {
    "turn": 164, "branch": 1, "strategy": "adaptive", "model": "m", "status": "complete", "budget": 4000,
    "total": 2854, "estimate": 2854, "usage": {"prompt_tokens": 2901, "prompt_tokens_details": {"cached_tokens": 1200}},
    "segments": [
        {"source": "system", "tokens": 204, "kept": True, "reason": "instructions"},
        {"source": "tools", "tokens": 81, "kept": True, "reason": "tools"},
        {"source": "summary", "from": 1, "to": 260, "tokens": 144, "kept": True},
        {"source": "history", "count": 274, "tokens": 16536, "kept": False, "reason": "over budget"},
        {"source": "history", "from": 275, "to": 326, "count": 52, "tokens": 1960, "kept": True, "reason": "fits"},
        {"source": "recall_history", "id": 91, "tokens": 244, "kept": True, "score": 0.27},
        {"source": "recall_doc", "id": "d1", "tokens": 190, "kept": True, "score": 0.2674},
        {"source": "recall_history", "id": 99, "tokens": 162, "kept": False, "reason": "below recall.min_score",
         "score": 0.2476},
        {"source": "new", "count": 1, "tokens": 31, "kept": True, "reason": "new"},
    ],
}  # fmt: skip


def looks(ledger: Ledger, width: int = 72, plain: bool = True) -> str:
    console = Console(file=io.StringIO(), width=width + 1, color_system=None)
    return "\n".join(text for part in context(ledger, width, plain) for text, _ in lines(console, part))


def test_a_turn_is_told_with_letters_where_there_are_no_colours() -> None:
    assert documents(LEDGER) == ["d1"]
    assert looks(titled(LEDGER, {"d1": "Shipping\x1b[2J"})) == (
        "turn 164, branch 1, adaptive, m, complete\n"
        "SSSSTTUUUHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHRRRRRRRRNN....................\n"
        "S system     204   7 %\n"
        "T tools       81   3 %\n"
        "U summary    144   5 %  1 to 260\n"
        "H history  1,960  69 %  52 messages, 275 to 326\n"
        "R recall     434  15 %  turn 91, Shipping[2J\n"
        "N new         31   1 %  1 message\n"
        "sent 2,854 tokens, about 2,854 for the model, budget 4,000; the model\n"
        "counted 2,901 (1,200 cached)\n"
        "left out\n"
        "274 messages  16,536  over budget\n"
        "turn 99          162  below recall.min_score (score 0.25)"
    )


@pytest.mark.parametrize("width", [20, 39, 80, 200])
def test_it_fits_the_terminal(width: int) -> None:
    shown = looks(LEDGER, width).split("\n")
    assert max(map(len, shown)) <= width
    assert len(shown[0 if width > 60 else next(i for i, row in enumerate(shown) if row.startswith("SS"))]) <= 72


def test_what_is_recalled_without_a_number_says_why() -> None:
    again = {"source": "recall_history", "tokens": 9, "kept": True, "reason": "sent with the question before"}
    assert "sent with the question before" in looks({"turn": 1, "branch": 1, "segments": [again]})


def test_without_a_budget_the_bar_is_full() -> None:
    shown = looks({**LEDGER, "budget": None}, plain=False).split("\n")
    assert shown[1] == "█" * 72
    assert "no budget" in looks({**LEDGER, "budget": None})


def test_a_turn_that_asked_no_model_says_so() -> None:
    assert "nothing was sent" in looks({"turn": 1, "branch": 1, "segments": None})


ODD = st.none() | st.integers(-5, 10**12) | st.text(max_size=5) | st.booleans() | st.floats() | st.lists(st.none())


@given(
    st.dictionaries(st.sampled_from(["turn", "branch", "strategy", "budget", "total", "estimate", "usage"]), ODD),
    st.lists(
        st.dictionaries(
            st.sampled_from(["source", "tokens", "kept", "reason", "score", "count", "from", "to", "id", "title"]),
            ODD | st.sampled_from(["history", "recall_doc", "new"]),
        ),
        max_size=4,
    ),
)
def test_an_imported_ledger_may_be_anything(head: dict[str, Any], segments: list[dict[str, Any]]) -> None:
    ledger = {**head, "segments": segments}
    assert looks(titled(ledger, dict.fromkeys(documents(ledger), "x")), 40)
