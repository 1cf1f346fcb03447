"""Text of others as a terminal may print it."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from proxy.cli.chatting.clean import clean, one_line


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    assert not [
        letter for letter in clean(text) if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\t\n"
    ]


@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs", "Cf", "Zl", "Zp"))))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


def test_escape_sequences_become_harmless_words() -> None:
    assert clean("\x1b]0;title\x07\x1b[2J\x9b31mred\r\n\u202eevil\u2028\ud800") == "]0;title[2J31mred\nevil\n\ufffd"


@given(st.text(), st.integers(4, 50))
def test_a_line_is_one_line_and_no_longer_than_asked_for(text: str, most: int) -> None:
    assert "\n" not in one_line(text, most)
    assert len(one_line(text, most)) <= most
