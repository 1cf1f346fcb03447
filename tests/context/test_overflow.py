"""Which part of the history is sent when not all of it fits."""

from collections.abc import Sequence
from typing import Any

import pytest

from proxy.context.overflow import RUNS_AS, STRATEGIES, Kept, Room
from proxy.context.transcript import Piece
from proxy.errors import ContextTooLong

truncate, everything = STRATEGIES["truncate"], STRATEGIES["null"]


def line(*shape: str, tokens: int = 10) -> list[Piece]:
    """Pieces of ten tokens: u is a question, a an answer, c calls, t a result; each string is a turn."""
    roles = {"u": "user", "a": "assistant", "c": "assistant", "t": "tool"}
    flat = [(letter, turn) for turn, letters in enumerate(shape, 1) for letter in letters]
    return [
        Piece(roles[letter], b"{}", tokens, seq, turn, int(letter == "c")) for seq, (letter, turn) in enumerate(flat, 1)
    ]


def room(pieces: Sequence[Piece], budget: int | None, cut: int = 0, **fields: Any) -> Room:
    given: dict[str, Any] = {"fixed": 0, "new": 10, "evict_to": 0.5, "must": len(pieces), "user": None} | fields
    return Room(pieces=pieces, budget=budget, cut=cut, **given)


TURNS = line("ua", "ua", "ua", "ua", "ua")


def test_without_a_budget_everything_is_sent() -> None:
    assert truncate(room(TURNS, None)) == Kept(0)
    assert everything(room(TURNS, None)) == Kept(0)


def test_what_fits_is_sent_to_the_last_token() -> None:
    assert truncate(room(TURNS, 110)) == Kept(0)


def test_whole_turns_leave_until_the_share_is_reached() -> None:
    assert truncate(room(TURNS, 109)) == Kept(6)  # 54 tokens: two turns
    assert truncate(room(TURNS, 80)) == Kept(6)  # exactly 40
    assert truncate(room(TURNS, 79)) == Kept(8)


def test_the_share_is_one_of_what_system_and_tools_leave() -> None:
    assert truncate(room(TURNS, 109, fixed=29)) == Kept(6)
    assert truncate(room(TURNS, 109, fixed=30)) == Kept(8)


@pytest.mark.parametrize("share", [1.0, 0.75, 0.25])
def test_the_share_can_be_set(share: float) -> None:
    kept = truncate(room(TURNS, 100, evict_to=share))
    assert (10 - kept.start) * 10 <= 100 * share


def test_the_last_cut_stays_while_it_fits() -> None:
    for end in range(6, 11):
        assert truncate(room(TURNS[:end], 100, cut=5)) == Kept(4)


def test_a_cut_that_fits_no_more_moves_down_to_the_share() -> None:
    assert truncate(room(TURNS, 69, cut=3)) == Kept(8)


def test_a_turn_too_large_for_the_share_stays_if_it_fits() -> None:
    pieces = line("ua", "ucta")
    assert truncate(room(pieces, 60)) == Kept(2)


def test_a_turn_too_large_for_the_budget_is_cut_between_groups() -> None:
    pieces = line("ua", "uctctctcta")
    kept = truncate(room(pieces, 70, evict_to=0.7, user=2))
    assert kept == Kept(9, user=2)
    assert pieces[kept.start].role == "assistant"


def test_results_never_lead() -> None:
    pieces = line("uctttttt")
    assert truncate(room(pieces, 60, user=0)) == Kept(8, user=0)


def test_the_calls_that_new_results_answer_are_sent() -> None:
    pieces = line("ua", "ua", "uc")
    assert truncate(room(pieces, 35, must=5, user=4)) == Kept(4)
    assert truncate(room(pieces, 30, must=5, user=4)) == Kept(4)
    with pytest.raises(ContextTooLong) as caught:
        truncate(room(pieces, 29, must=5, user=4))
    assert caught.value.param == "messages"
    assert "30" in caught.value.message
    assert "29" in caught.value.message


def test_the_newest_question_is_sent_though_its_turn_is_not() -> None:
    pieces = line("uctctctct")
    assert truncate(room(pieces, 50, must=7, user=0)) == Kept(7, user=0)


def test_null_leaves_nothing_out() -> None:
    assert everything(room(TURNS, 110)) == Kept(0)
    with pytest.raises(ContextTooLong) as caught:
        everything(room(TURNS, 109))
    assert "110" in caught.value.message
    assert "109" in caught.value.message


def test_the_strategies_of_the_contract_all_run() -> None:
    assert {"truncate", "null", "adaptive", "summarize"} <= {*STRATEGIES, *RUNS_AS}
    assert set(RUNS_AS.values()) <= set(STRATEGIES)
