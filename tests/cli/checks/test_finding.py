"""What a finding shows."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.cli.checks.finding import Site, cleaned, explained, parted
from proxy.errors import Unavailable, UpstreamBroken, UpstreamRefused


def test_a_message_is_parted_into_what_was_wrong_and_what_to_do() -> None:
    assert parted("unknown key x (line 2); did you mean y?", "other") == ("unknown key x (line 2)", "did you mean y?")
    assert parted("it is\n  broken", "mend it") == ("it is broken", "mend it")


def test_only_our_own_messages_are_parted() -> None:
    told = "it is sk-1234; use sk-1234"
    assert explained(Unavailable(told), "mend it", "sk-1234") == ("it is ***", "use ***")
    assert explained(UpstreamBroken(told), "mend it", "sk-1234") == ("it is ***; use ***", "mend it")
    refused = UpstreamRefused(400, told, body=None, headers={})
    assert explained(refused, "mend it", "sk-1234") == ("it is ***; use ***", "mend it")


@given(st.text(), st.text(min_size=7))
def test_a_foreign_text_is_one_short_line_without_secrets(text: str, secret: str) -> None:
    shown = cleaned(f"{text}{secret}{text}", secret, "")
    assert len(shown) <= 200
    assert secret not in shown
    assert len(shown.splitlines()) <= 1


def test_a_site_can_be_used_unless_there_are_problems() -> None:
    assert Site().usable
    assert not Site(problems=["no"]).usable
