"""Names for new sessions."""

import re
from random import Random

from proxy.cli.chatting.names import FIRST, SECOND, made


def test_a_name_can_be_read_out() -> None:
    names = {made(Random(seed).choice) for seed in range(1000)}
    assert all(re.fullmatch(r"[a-z]+-[a-z]+-\d{3}", name) for name in names)
    assert len(names) > 990
    assert len(set(FIRST)) == len(FIRST)
    assert len(set(SECOND)) == len(SECOND)
