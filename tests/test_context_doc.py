"""docs/context.md: its calls work, its ledger adds up, its table says what the defaults are."""

import asyncio
import dataclasses
import json
import re
from pathlib import Path

import pytest

from proxy.config import Config
from proxy.context.overflow import STRATEGIES
from proxy.telemetry.metrics import PREFIX, Metrics
from tests.scripted import echoes, scripted_upstream
from tests.serving import proxy

ROOT = Path(__file__).parent.parent
DOC = ROOT / "docs" / "context.md"
TEXT = DOC.read_text()
DEFAULT_URL = "http://127.0.0.1:8080"
LIMIT_S = 30

pytestmark = pytest.mark.anyio


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


async def shell(code: str) -> str:
    """What the block prints; a curl in it fails at an error's status."""
    strict = 'curl() { command curl -sS --fail-with-body "$@"; echo; }\nset -euo pipefail\n'
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", strict + code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    answer, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert process.returncode == 0, (code, answer.decode())
    return answer.decode()


async def test_every_call_works(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up, proxy(up.url, tmp_path) as running:
        url = running.url.removesuffix("/v1")
        asking, *others = [block.replace(DEFAULT_URL, url) for block in blocks("bash")]
        for _ in range(3):  # the README's turns
            await shell(asking)
        printed = "\n".join([await shell(block) for block in others])
        asked = [request for request in up.requests if request.path == "/v1/chat/completions"]
        assert len(asked) == 3, "what looks at a session asks no model"
        for name in ("segments", "body", "ledger", "estimate", "forked_at", "items"):
            assert f'"{name}"' in printed, name


def test_the_ledger_adds_up() -> None:
    (block,) = blocks("json")
    ledger = json.loads(block)
    kept = [segment["tokens"] for segment in ledger["segments"] if segment["kept"]]
    assert sum(kept) == ledger["total"]
    header = re.search(r"X-Context-Tokens: total=(\d+);", TEXT)
    assert header is not None
    assert int(header[1]) == ledger["total"]


def test_the_table_of_settings_shows_the_defaults() -> None:
    config = dataclasses.asdict(Config())
    rows = re.findall(r"^\| (`\w+\.\w+`.*?) \| (.*?) \|", TEXT, re.MULTILINE)
    shown: dict[tuple[str, str], str] = {}
    for names, values in rows:
        keys = re.findall(r"`(\w+)\.(\w+)`", names)
        shown |= dict(zip(keys, values.split(", "), strict=True))
    told = {"None": "null", "True": "true", "False": "false"}
    for (section, key), value in shown.items():
        default = str(config[section][key])
        assert value == told.get(default, default) or value == "the session's", key
    for section in ("context", "recall"):
        plain = {(section, key) for key, value in config[section].items() if not isinstance(value, dict)}
        assert plain <= set(shown)


def test_its_metrics_are_there() -> None:
    series = Metrics().render().decode()
    names = re.findall(r"`(\w+)(?:\{(\w+)\})?`", TEXT.partition("| metric |")[2].partition("\n\n")[0])
    assert len(names) > 8
    for name, label in names:
        assert f"\n# TYPE {PREFIX}{name} " in series, name
        assert not label or f"\n{PREFIX}{name}{{{label}=" in series, name


def test_every_strategy_has_its_row() -> None:
    table = TEXT.partition("\n| strategy |")[2].partition("\n\n")[0]
    rows = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    assert rows == set(STRATEGIES) - {"observe"}


def test_its_picture_is_there_and_small() -> None:
    picture = DOC.parent / "context.svg"
    assert "](context.svg)" in TEXT
    assert picture.stat().st_size < 60_000
    assert "prefers-color-scheme:dark" in picture.read_text()


def test_its_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", TEXT)
    assert [target for target in targets if not (DOC.parent / target).exists()] == []
