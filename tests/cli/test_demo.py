"""The demo, whole: the real model in llama.cpp, a real server, the official SDK, each of its own checks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(600)  # the first run on a machine fetches 93 MB
def test_the_demo_remembers_with_a_real_model(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "PROXY_"))}
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "demo", "--once", "--port", "0"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    alone, first, second = (int(number) for number in re.findall(r"(\d+) prompt tokens read", done.stdout)[:3])
    assert second > first
    assert second > alone, "the model read more than the question alone"
    assert re.search(r"X-Context-Dropped: [1-9]", done.stdout)
    assert "8 checks, all held" in done.stdout
