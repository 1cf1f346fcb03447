"""What is searched for: the words that carry meaning, of what was said last."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.recall import query


def test_small_talk_asks_for_nothing() -> None:
    assert query.words("Thank you, that is all I wanted... ok?") == ["wanted"]
    assert query.words("Thanks! And what about it?") == []


def test_words_count_once_whatever_their_case() -> None:
    assert query.words("Paris PARIS, paris Straße") == ["paris", "straße"]


@given(st.text(max_size=2000))
def test_there_are_never_many(text: str) -> None:
    found = query.words(text)
    assert len(found) <= query.MOST
    assert len(set(found)) == len(found)


def test_of_a_long_text_the_last_words_stay() -> None:
    assert query.words(" ".join(f"w{n}" for n in range(100))) == [f"w{n}" for n in range(68, 100)]


def test_what_was_said_last_stays() -> None:
    assert query.joined(["first", "", "second"], 100) == "first\nsecond"
    assert query.joined(["first", "second"], 6) == "second"
