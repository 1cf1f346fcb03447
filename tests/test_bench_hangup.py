"""The trials of `bench hangup`: a real proxy, clients that leave, a model server that sees it."""

from pathlib import Path

import pytest

from bench.cases.hangup import WAYS, Trial, Way, listening
from tests.serving import proxy

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
async def test_the_model_server_sees_each_way_of_leaving(tmp_path: Path, way: Way) -> None:
    trial = Trial(way, way.name)
    silence = {"first_byte_timeout_s": 60, "idle_timeout_s": 60, "total_timeout_s": 60}
    async with (
        listening({trial.name: trial}) as port,
        proxy(f"http://127.0.0.1:{port}/v1", tmp_path, upstream=silence) as running,
    ):
        assert await trial.run(running.server.port(), wait_s=0) > 0
        assert trial.reached.is_set()
        assert trial.over.is_set()
