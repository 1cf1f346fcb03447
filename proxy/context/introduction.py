"""The system message of a session without a template of its own: who speaks, to whom, about what. Pure.

It says what Julep's default template says, except for the documents, which go to the question that they belong to.
"""

from collections.abc import Sequence

from proxy.resources import AgentFields, UserFields


def default(agent: AgentFields | None, users: Sequence[UserFields], situation: str | None) -> str:
    """Empty when there is nothing to say."""
    parts = [part for part in (_about(agent, users), _situation(situation), _instructions(agent)) if part]
    return "\n\n".join(parts)


def _about(agent: AgentFields | None, users: Sequence[UserFields]) -> str:
    lines = []
    if agent is not None:
        lines.append(f"You are {agent.name}." + (f" About you: {agent.about}." if agent.about else ""))
    for user in users:
        named = f" and their name is {user.name}" if user.name else ""
        about = f" About the user: {user.about}." if user.about else ""
        lines.append(f"You are talking to a user{named}.{about}")
    return "\n".join(lines)


def _situation(situation: str | None) -> str:
    return f"Situation: {situation}" if situation else ""


def _instructions(agent: AgentFields | None) -> str:
    if agent is None or not agent.instructions:
        return ""
    return "Instructions:\n" + "\n".join(f"- {item}" for item in agent.instructions)
