"""Reading the configuration again: what changes by it, what is refused, when a changed file is noticed."""

import asyncio
import dataclasses
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from proxy.cli.reloading import Reloading, Source
from proxy.config import Config, UpstreamConfig, load, reloaded
from proxy.edge.application import Edge
from proxy.errors import BadConfig
from proxy.services import Services
from tests.inprocess import Model, services
from tests.processes import ROOT

pytestmark = pytest.mark.anyio

TWO = """
upstreams:
- {name: a, base_url: 'http://a/v1', api_key: sk-a}
- {name: b, base_url: 'http://b/v1'}
models: {fast: {upstream: b, model: x}}
"""
OTHERS = [
    one.name for one in dataclasses.fields(Config) if one.name not in ("upstreams", "models", "limits", "telemetry")
]


# --- what changes by it ---

CHANGES = [
    (TWO, ()),
    (TWO.replace("sk-a", "sk-2"), ("upstreams.a.api_key",)),
    (TWO.replace("http://b/v1'", "http://c/v1', retries: 0"), ("upstreams.b.base_url", "upstreams.b.retries")),
    (TWO.replace("name: a", "name: c"), ("upstreams.a", "upstreams.c")),
    (TWO.replace("model: x", "model: y"), ("models.fast.model",)),
    (TWO.replace("fast:", "slow:"), ("models.fast", "models.slow")),
    (TWO + "limits: {choices: 2, answer_mb: 1}\n", ("limits.choices", "limits.answer_mb")),
    (TWO + "telemetry: {log_level: error}\n", ("telemetry.log_level",)),
]


@pytest.mark.parametrize(("text", "changed"), CHANGES)
def test_upstreams_models_limits_and_log_level_follow_the_file(text: str, changed: tuple[str, ...]) -> None:
    found = load(text, {})
    made = reloaded(load(TWO, {}), found)
    assert (set(made.changed), made.ignored) == (set(changed), ())
    assert made.config == found


def test_the_order_of_the_upstreams_is_a_change() -> None:
    before = load(TWO, {})
    turned = dataclasses.replace(before, upstreams=before.upstreams[::-1])
    assert reloaded(before, turned).changed == ("upstreams",)


def test_everything_else_waits_for_a_restart_and_is_named_without_its_value() -> None:
    found = load(
        "server: {port: 9, cors_origins: ['http://x']}\nauth: {mode: keys}\nstorage: {url: 'sqlite:///secret.db'}\n"
        "context: {token_budget: 5}\nrecall: {embedder: {kind: none}}\ntelemetry: {metrics: false, log_level: debug}",
        {},
    )
    made = reloaded(load("", {}), found)
    assert made.changed == ("telemetry.log_level",)
    assert made.ignored == ("server.port", "server.cors_origins", "auth.mode", "storage.url", "context.token_budget",
                            "recall.embedder.kind", "telemetry.metrics")  # fmt: skip


@given(st.lists(st.sampled_from([field.name for field in dataclasses.fields(Config)]), unique=True))
def test_nothing_but_the_four_is_ever_taken(sections: list[str]) -> None:
    other = load(
        "{server: {port: 1}, auth: {mode: keys}, upstreams: [{name: z}], models: {m: {}},"
        " sessions: {auto_create: false},"
        " storage: {synchronous: normal}, context: {evict_to: 0.1}, recall: {limit: 1}, limits: {nesting: 1},"
        " passthrough: {paths: [files]}, telemetry: {log_level: debug, metrics: false}}",
        {},
    )
    running = load("", {})
    found = dataclasses.replace(running, **{name: getattr(other, name) for name in sections})
    made = reloaded(running, found)
    assert all(getattr(made.config, name) == getattr(running, name) for name in OTHERS)
    assert made.config.telemetry.metrics
    assert {name.partition(".")[0] for name in made.ignored} == {n for n in sections if n in (*OTHERS, "telemetry")}
    again = reloaded(made.config, found)
    assert (again.config, again.changed, again.ignored) == (made.config, (), made.ignored)


def test_what_does_not_fit_what_runs_is_refused() -> None:
    passing = load("auth: {mode: passthrough}", {})
    two = load("auth: {mode: keys}\n" + TWO, {})
    with pytest.raises(BadConfig, match="passthrough needs upstreams of one origin"):
        reloaded(passing, two)


def test_an_embedder_keeps_its_upstream() -> None:
    running = load(TWO + "recall: {embedder: {kind: upstream, upstream: b, model: e}}", {})
    with pytest.raises(BadConfig, match=r"recall\.embedder\.upstream is b"):
        reloaded(running, load("", {}))


# --- where it comes from ---


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("server: {port: 1}")
    source = Source(file, {"port": 2})
    assert source.read().server.port == 2
    file.write_text("server: {port: 3}\nlimits: {choices: 1}")
    made = reloaded(source.read(), source.again())
    assert (made.ignored, made.config.server.port) == ((), 2)


def test_the_usual_file_is_taken_once_it_is_there_and_never_replaced_by_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = Source(None, {})
    assert source.read().limits.choices == source.again().limits.choices == 8
    Path("config.yaml").write_text("limits: {choices: 1}")
    assert source.again().limits.choices == 1
    Path("config.yaml").unlink()
    with pytest.raises(BadConfig, match=r"config\.yaml cannot be read"):
        source.again()


@pytest.mark.parametrize("text", ["", "\n \n", "# upstreams:\n", "  # a\n\n"])
def test_an_empty_file_is_the_default_at_the_start_and_refused_later(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    source = Source(file, {})
    assert source.read() == load("")
    with pytest.raises(BadConfig, match="nothing stands in it"):
        source.again()
    file.write_text("{}")
    assert source.again() == load("")


KEY = "sk-very-secret"
LEAKY = [
    f"upstreams: [{{name: a, api_key: {KEY}, base_url: 'http://a",
    f"upstreams:\n- name: a\n  api_key: {KEY}\n  retries: 1: 2",
    f"upstreams: [{{name: a, api_key:{KEY}}}]",
    f"upstreams: [{{name: a, api_key: *{KEY}}}]",
    f"upstreams: [{{name: a, api_key: !{KEY}}}]",
    f"upstreams: [{{name: a, api_key: !!int {KEY}}}]",
    f"upstreams: [{{name: a, api_key: !!bool {KEY}}}]",
    f"upstreams: [{{name: a, api_key: !!python/name:{KEY} x}}]",
    f"upstreams: [{{name: a, api_key: [{KEY}]}}]",
    f'upstreams: [{{name: a, api_key: "{KEY}\\q"}}]',
    f"upstreams: [{{name: a, api_key: {KEY}, base_url: 'http://{KEY}@a/v1/chat/completions'}}]",
    f"upstreams: [{{name: a, api_key: {KEY}, base_url: 'ftp://{KEY}'}}]",
    f"upstreams: [{{[{KEY}]: 1}}]",
    f"upstreams: {KEY}",
    f"auth: {{mode: {KEY}}}",
]


@pytest.mark.parametrize("text", LEAKY)
def test_a_reason_never_holds_what_may_be_a_key(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(BadConfig) as refused:
        Source(file, {}).read()
    assert KEY not in str(refused.value)
    assert str(refused.value).startswith(f"{file}: ")


# --- doing so while a server runs ---


@dataclass
class Stage:
    """An application whose reloads the test holds, and what its log says."""

    file: Path
    taken: list[Config] = field(default_factory=list)
    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failing: list[Exception] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ask: Callable[[], None] = lambda: None

    def log(self, level: str, event: str, **facts: object) -> None:
        self.said.append((event, facts))
        self.news.set()

    def rewired(self, svc: Services, config: Config) -> Services:
        if self.failing:
            raise self.failing.pop()
        self.taken.append(config)
        return dataclasses.replace(svc, config=config)

    def write(self, **sections: Any) -> None:
        """As editors do it that take care: a new file in the old one's place."""
        beside = self.file.with_name("beside")
        beside.write_text(yaml.safe_dump(sections))
        beside.rename(self.file)

    async def until(self, done: Callable[[], bool]) -> None:
        with anyio.fail_after(10):
            while not done():
                self.news.clear()
                await self.news.wait()

    async def events(self, count: int) -> list[str]:
        """The events, once there are so many."""
        await self.until(lambda: len(self.said) >= count)
        return [event for event, _ in self.said]


@asynccontextmanager
async def staged(folder: Path, watch_s: float | None = None, kind: type[Source] = Source) -> AsyncGenerator[Stage]:
    stage = Stage(folder / "config.yaml")
    stage.file.write_text("limits: {choices: 1}")
    source = kind(stage.file, {})
    config = source.read()
    async with services(folder, Model()) as svc:
        edge = Edge(dataclasses.replace(svc, config=config, log=stage.log), Starlette(), stage.rewired)
        reloading = Reloading(edge, source)
        stage.ask = reloading.ask
        async with reloading.running(watch_s):
            yield stage


async def test_what_the_file_says_is_taken_when_asked_for(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.write(limits={"choices": 2}, server={"port": 1})
        stage.ask()
        await stage.events(1)
        assert stage.said == [("config_reloaded", {"changed": ("limits.choices",), "ignored": ("server.port",)})]
        assert stage.taken[0].limits.choices == 2


@pytest.mark.parametrize("at_once", [True, False])
async def test_of_several_in_a_row_the_last_state_wins(tmp_path: Path, at_once: bool) -> None:
    async with staged(tmp_path) as stage:
        for choices in range(2, 12):
            stage.write(limits={"choices": choices})
            stage.ask()
            if not at_once:
                await anyio.lowlevel.checkpoint()
        await stage.until(lambda: bool(stage.taken) and stage.taken[-1].limits.choices == 11)
        assert not at_once or len(stage.taken) == 1


async def test_after_a_refusal_and_a_defect_the_next_one_is_taken(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.file.write_text("limits: {choices: 0}")
        stage.ask()
        await stage.events(1)
        stage.write(limits={"choices": 2})
        stage.failing.append(ZeroDivisionError())
        stage.ask()
        await stage.events(2)
        stage.ask()
        assert await stage.events(3) == ["config_refused", "defect", "config_reloaded"]
        assert stage.said[0][1]["reason"] == f"{stage.file}: limits.choices must be more than 0 (line 1)"
        assert [one.limits.choices for one in stage.taken] == [2]


async def test_a_file_that_says_the_same_changes_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.ask()
        await stage.events(1)
        assert stage.said == [("config_reloaded", {"changed": (), "ignored": ()})]
        assert stage.taken == []


# --- watching the file ---


class Unseen(Source):
    """A file whose state cannot be told at first, for a reason that nobody thought of."""

    failing = 0

    def stamp(self) -> tuple[int, ...] | None:
        self.failing += 1
        if 1 < self.failing < 4:  # the first is of the reading at the start
            raise ZeroDivisionError
        return super().stamp()


async def test_a_defect_in_watching_is_told_and_does_not_end_it(tmp_path: Path) -> None:
    async with staged(tmp_path, watch_s=0.01, kind=Unseen) as stage:
        await stage.events(2)
        stage.write(limits={"choices": 2})
        assert await stage.events(3) == ["defect", "defect", "config_reloaded"]


def rewritten(stage: Stage) -> None:
    stage.file.write_text("limits: {choices: 3}")


def touched(stage: Stage) -> None:
    rewritten(stage)
    os.utime(stage.file, ns=(1, 1))


def replaced(stage: Stage) -> None:
    stage.write(limits={"choices": 3})


@pytest.mark.parametrize("change", [rewritten, touched, replaced])
async def test_a_changed_file_is_noticed(tmp_path: Path, change: Callable[[Stage], None]) -> None:
    async with staged(tmp_path, watch_s=0.01) as stage:
        change(stage)
        assert await stage.events(1) == ["config_reloaded"]
        assert stage.taken[0].limits.choices == 3


async def test_a_link_that_leads_elsewhere_is_a_changed_file(tmp_path: Path) -> None:
    """As Kubernetes swaps the files of a ConfigMap."""
    for name, choices in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"limits: {{choices: {choices}}}")
        os.utime(tmp_path / name / "config.yaml", ns=(5, 5))
    async with staged(tmp_path, watch_s=0.01) as stage:
        data = tmp_path / "data"
        data.symlink_to("one")
        stage.file.unlink()
        stage.file.symlink_to("data/config.yaml")
        assert await stage.events(1) == ["config_reloaded"]
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(data)
        await stage.events(2)
        assert stage.taken[-1].limits.choices == 2


async def test_a_file_that_goes_is_refused_once_and_taken_when_it_is_back(tmp_path: Path) -> None:
    async with staged(tmp_path, watch_s=0.01) as stage:
        stage.file.unlink()
        assert await stage.events(1) == ["config_refused"]
        assert "cannot be read" in stage.said[0][1]["reason"]
        stage.write(limits={"choices": 4})
        assert await stage.events(2) == ["config_refused", "config_reloaded"]
        assert [one.limits.choices for one in stage.taken] == [4]


async def test_a_file_that_grows_is_read_once_it_stays(tmp_path: Path) -> None:
    read: list[int] = []

    class Growing(Source):
        size = 0

        def stamp(self) -> tuple[int, ...]:
            self.size = min(self.size + 1, 5)
            return (self.size,)

        def again(self) -> Config:
            read.append(self.size)
            return super().again()

    async with staged(tmp_path, watch_s=0.01, kind=Growing) as stage:
        await stage.events(1)
        assert read == [5]


async def test_a_file_that_is_written_piece_by_piece_ends_as_what_it_says(tmp_path: Path) -> None:
    text = yaml.safe_dump({"upstreams": [{"name": "a", "base_url": "http://a/v1"}], "limits": {"choices": 5}})
    async with staged(tmp_path, watch_s=0.01) as stage:
        for size in range(len(text) + 1):
            stage.file.write_text(text[:size])
            await anyio.lowlevel.checkpoint()
        await stage.until(lambda: bool(stage.taken) and stage.taken[-1].limits.choices == 5)
        assert stage.taken[-1].upstreams == (UpstreamConfig("a", "http://a/v1"),)


def test_the_examples_of_the_document_can_be_used() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    blocks = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    assert len(blocks) >= 2
    for block in blocks:
        load(block, {"VENDOR_KEY": "k"})
