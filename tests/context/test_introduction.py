"""The system message of a session that has no template."""

import pytest

from proxy.context.introduction import default
from proxy.resources import AgentFields, UserFields

ADA = AgentFields(name="Ada", about="a support agent", instructions=["Be brief.", "Never guess."])


@pytest.mark.parametrize(
    ("agent", "users", "situation", "said"),
    [
        (None, [], None, ""),
        (None, [], "refund", "Situation: refund"),
        (AgentFields(name="Ada"), [], None, "You are Ada."),
        (
            ADA,
            [UserFields(name="Bob", about="a customer")],
            "refund",
            "You are Ada. About you: a support agent.\n"
            "You are talking to a user and their name is Bob. About the user: a customer.\n\n"
            "Situation: refund\n\n"
            "Instructions:\n- Be brief.\n- Never guess.",
        ),
        (
            AgentFields(name="Ada"),
            [UserFields(), UserFields(name="Cy")],
            None,
            "You are Ada.\nYou are talking to a user.\nYou are talking to a user and their name is Cy.",
        ),
    ],
)
def test_it_tells_who_speaks_to_whom_about_what(
    agent: AgentFields | None, users: list[UserFields], situation: str | None, said: str
) -> None:
    assert default(agent, users, situation) == said
