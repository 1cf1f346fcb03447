"""What becomes of the renderer's process: it is killed, is too slow, is abandoned in the middle, outlives nobody."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import uvloop

from proxy.errors import BadRequest, ProxyError, Unavailable
from proxy.templates.renderer import Rendered, Renderer
from tests.processes import ROOT

pytestmark = pytest.mark.anyio

WAIT_S = 20.0
SLOW = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
ALONE = """
import asyncio
from proxy.templates.renderer import Renderer

async def main():
    await Renderer().render("a", b"{}")
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def processes(of: int | None = None) -> list[int]:
    """The renderers among the children of this or another process, with those that are dead and not reaped."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        parent = int(status.rpartition(")")[2].split()[1])
        if parent == (of or os.getpid()) and (b"worker.py" in command or not command):
            found.append(int(folder.name))
    return found


def only() -> int:
    (process,) = processes()
    return process


@pytest.fixture
async def renderer() -> AsyncGenerator[Renderer]:
    """One whose process runs. Afterwards none is left, not even a dead one."""
    made = Renderer()
    assert await text(made, "a") == "a"
    yield made
    await made.aclose()
    assert not processes()


@pytest.fixture
async def hasty() -> AsyncGenerator[Renderer]:
    made = Renderer(patience_s=0.5)
    assert await text(made, "a") == "a"
    yield made
    await made.aclose()
    assert not processes()


async def text(renderer: Renderer, source: str, variables: bytes = b"{}") -> str:
    return (await renderer.render(source, variables)).text


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(WAIT_S):
        while not true():
            await anyio.lowlevel.checkpoint()


def state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


async def stop(process: int) -> None:
    """Holds it up as if it were busy."""
    os.kill(process, signal.SIGSTOP)
    await until(lambda: state(process) == "T")


async def begun(renderer: Renderer, source: str, variables: bytes = b"{}") -> "asyncio.Task[Rendered]":
    """A render on its way."""
    task = asyncio.ensure_future(renderer.render(source, variables))
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    assert not task.done()
    return task


async def cancelled(task: "asyncio.Task[Rendered]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def failure(task: "asyncio.Task[Rendered]") -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        await task
    return caught.value


# --- its life ---


async def test_one_process_serves_all(renderer: Renderer) -> None:
    first = only()
    for source in ("b", "{{ }", "c"):
        await asyncio.gather(renderer.render(source, b"{}"), return_exceptions=True)
    assert only() == first


async def test_none_is_started_before_it_is_needed() -> None:
    renderer = Renderer()
    for source in ("x" * 70_000, "\ud800"):
        with pytest.raises(BadRequest):
            await renderer.check(source)
    assert not processes()
    await renderer.aclose()


async def test_it_knows_nothing_of_the_server_and_of_its_terminal(renderer: Renderer) -> None:
    folder = Path(f"/proc/{only()}")
    told = (folder / "environ").read_bytes().split(b"\0")
    assert {line.split(b"=")[0] for line in told if line} <= {b"PYTHONHASHSEED", b"LD_LIBRARY_PATH"}
    assert os.getsid(only()) == only()
    assert (folder / "cwd").readlink() == Path("/")


async def test_a_kept_render_needs_no_process(renderer: Renderer) -> None:
    assert await renderer.check("a{{ b }}") == {"b"}
    await stop(only())
    assert await text(renderer, "a") == "a"
    assert await renderer.check("a{{ b }}") == {"b"}
    os.kill(only(), signal.SIGCONT)


async def test_many_at_once_each_get_their_own() -> None:
    renderer = Renderer(workers=2)
    asked = [renderer.render("{{ a }}", b'{"a": %d}' % n, who=(n, "s")) for n in range(40)]
    assert [rendered.text for rendered in await asyncio.gather(*asked)] == [str(n) for n in range(40)]
    assert len(processes()) == 2
    await renderer.aclose()
    assert not processes()


async def test_a_template_that_is_too_slow_does_not_harm_who_waits(renderer: Renderer) -> None:
    slow, quick = await asyncio.gather(renderer.render(SLOW, b"{}"), text(renderer, "b"), return_exceptions=True)
    assert (type(slow), quick) == (BadRequest, "b")


# --- its death ---


async def test_one_that_was_killed_is_replaced(renderer: Renderer) -> None:
    first = only()
    os.kill(first, signal.SIGKILL)
    assert await text(renderer, "b") == "b"
    assert only() != first


@pytest.mark.parametrize("variables", [b"{}", b'{"a": "' + b"x" * 1_000_000 + b'"}'], ids=["reading", "writing"])
async def test_one_that_is_killed_at_work_is_replaced(renderer: Renderer, variables: bytes) -> None:
    first = only()
    await stop(first)
    task = await begun(renderer, "b", variables)
    os.kill(first, signal.SIGKILL)
    assert (await task).text == "b"
    assert only() != first


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
async def test_a_crash_is_the_templates_fault_when_it_happens_twice(renderer: Renderer, number: int) -> None:
    """As by a full stack. Being killed is not."""
    first = only()
    await stop(first)
    task = await begun(renderer, "b")
    os.kill(first, number)
    os.kill(first, signal.SIGCONT)
    await until(lambda: bool({*processes()} - {first}))
    os.kill(*{*processes()} - {first}, number)
    told = await failure(task)
    if number == signal.SIGKILL:
        assert (type(told), told.code) == (Unavailable, "template_unavailable")
    else:
        assert (type(told), told.code) == (BadRequest, "template_error")
    assert await text(renderer, "b") == "b"


async def test_one_that_does_not_answer_is_our_failure(hasty: Renderer) -> None:
    first = only()
    await stop(first)
    told = await failure(await begun(hasty, "b"))
    assert (type(told), told.code, told.headers) == (Unavailable, "template_timeout", {"Retry-After": "1"})
    assert await text(hasty, "b") == "b"
    assert only() != first


async def test_who_waits_too_long_for_others_is_told_to_come_again(hasty: Renderer) -> None:
    await stop(only())
    both = [await begun(hasty, "b"), await begun(hasty, "c")]
    assert [(await failure(one)).code for one in both] == ["template_timeout"] * 2
    assert await text(hasty, "c") == "c"


# --- callers that leave ---


async def test_an_answer_that_nobody_waits_for_is_not_the_next_ones(renderer: Renderer) -> None:
    first = only()
    await stop(first)
    await cancelled(await begun(renderer, "left"))
    task = await begun(renderer, "next")
    os.kill(first, signal.SIGCONT)
    assert (await task).text == "next"
    assert await text(renderer, "left") == "left"
    assert only() == first


async def test_who_leaves_the_queue_is_not_rendered(renderer: Renderer) -> None:
    first = only()
    await stop(first)
    tasks = [await begun(renderer, source) for source in ("b", "c", "d")]
    await cancelled(tasks[1])
    os.kill(first, signal.SIGCONT)
    assert [(await tasks[0]).text, (await tasks[2]).text, await text(renderer, "c")] == ["b", "d", "c"]


async def test_who_leaves_while_the_process_starts_leaves_it_to_the_next(renderer: Renderer) -> None:
    os.kill(only(), signal.SIGKILL)
    await cancelled(await begun(renderer, "left"))
    assert await text(renderer, "b") == "b"
    assert len(processes()) == 1


async def test_who_leaves_a_slow_template_leaves_a_renderer_that_works(renderer: Renderer) -> None:
    await cancelled(await begun(renderer, SLOW))
    assert await text(renderer, "b") == "b"


# --- its end ---


async def test_after_the_end_nothing_is_rendered() -> None:
    renderer = Renderer()
    assert await text(renderer, "a") == "a"
    await renderer.aclose()
    await renderer.aclose()
    with pytest.raises(Unavailable):
        await renderer.render("b", b"{}")
    assert not processes()


async def test_the_end_waits_for_who_is_nearly_done() -> None:
    renderer = Renderer()
    task = await begun(renderer, "a")  # its process starts
    await renderer.aclose()
    assert (await task).text == "a"
    assert not processes()


async def test_the_end_waits_no_longer_for_one_that_hangs() -> None:
    renderer = Renderer()
    assert await text(renderer, "a") == "a"
    await stop(only())
    tasks = [await begun(renderer, "b"), await begun(renderer, "c")]
    await renderer.aclose()
    assert [type(await failure(task)) for task in tasks] == [Unavailable] * 2
    assert not processes()


async def test_the_end_kills_an_idle_one_that_hangs() -> None:
    renderer = Renderer()
    assert await text(renderer, "a") == "a"
    await stop(only())
    await renderer.aclose()
    assert not processes()


async def test_no_process_outlives_a_server_that_was_killed() -> None:
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", ALONE, stdout=pipe, cwd=ROOT)
    assert server.stdout is not None
    with anyio.fail_after(WAIT_S):
        assert await server.stdout.readline() == b"ready\n"
        (process,) = processes(server.pid)
        watched = os.pidfd_open(process)
        server.kill()
        await anyio.wait_readable(watched)  # its end
        await server.communicate()
    os.close(watched)


@pytest.mark.parametrize("thread", [False, True], ids=["main", "thread"])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_works_on_every_loop(loop: Callable[[], asyncio.AbstractEventLoop], thread: bool) -> None:
    given: list[object] = []

    async def main() -> None:
        renderer = Renderer()
        given.append(await text(renderer, "a"))
        os.kill(only(), signal.SIGKILL)
        slow = await begun(renderer, SLOW)
        given.append(type(await failure(slow)))
        given.append(await text(renderer, "{{ a|length }}", b'{"a": "' + b"x" * 1_000_000 + b'"}'))
        await renderer.aclose()

    def run() -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main())

    if thread:
        running = threading.Thread(target=run)
        running.start()
        running.join()
    else:
        run()
    assert given == ["a", BadRequest, "1000000"]
    assert not processes()
