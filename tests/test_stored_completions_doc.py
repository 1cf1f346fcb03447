"""docs/stored-completions.md: its example works, and prints what it should."""

import re
from pathlib import Path

import anyio
import pytest

from tests.scripted import says, scripted_upstream
from tests.serving import proxy

pytestmark = pytest.mark.anyio

TEXT = (Path(__file__).parent.parent / "docs" / "stored-completions.md").read_text()


async def test_its_example_works(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    async with scripted_upstream(says("The Elbe.", id="chatcmpl-7")) as up, proxy(up.url, tmp_path) as running:
        code = block.replace("http://127.0.0.1:8080/v1", running.url)
        await anyio.to_thread.run_sync(lambda: exec(compile(code, "stored-completions.md", "exec"), {}))
    said = [line for line in capfd.readouterr().out.splitlines() if not line.startswith("session-proxy on")]
    assert said == ["['chatcmpl-7']", "{'topic': 'water'}", "['Name a river.']", "True"]
