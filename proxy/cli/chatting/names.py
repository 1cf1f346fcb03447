"""Names for new sessions that can be read out and typed again. Pure: which words is decided outside."""

from collections.abc import Callable, Sequence

FIRST = (
    "amber", "brave", "bright", "calm", "clear", "clever", "coral", "crisp", "eager", "early", "fair", "gentle",
    "golden", "green", "happy", "honest", "jolly", "kind", "lively", "lucky", "mellow", "merry", "noble", "olive",
    "patient", "plain", "proud", "quick", "quiet", "royal", "silver", "smart", "snowy", "steady", "sunny", "swift",
    "tidy", "violet", "warm", "wise",
)  # fmt: skip
SECOND = (
    "badger", "beaver", "bison", "crane", "deer", "dolphin", "eagle", "falcon", "finch", "fox", "hare", "hawk",
    "heron", "ibis", "jay", "koala", "lark", "lemur", "lion", "lynx", "marten", "mole", "moose", "newt", "otter",
    "owl", "panda", "pigeon", "puffin", "raven", "robin", "salmon", "seal", "stork", "swan", "tiger", "trout",
    "turtle", "whale", "wren",
)  # fmt: skip


def made(choose: Callable[[Sequence[str]], str]) -> str:
    """A name; about a million are possible."""
    digits = "".join(choose("0123456789") for _ in range(3))
    return f"{choose(FIRST)}-{choose(SECOND)}-{digits}"
