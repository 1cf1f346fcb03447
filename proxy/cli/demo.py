"""session-proxy demo: a proxy, a model and a short conversation that shows what sessions do, in one command.

The conversation goes through the official `openai` SDK, as any client's would. Results go to stdout, notes to stderr.
Intentional: ./config.yaml is not read. The demo must work in any clone, whatever that file says; `--config` names one.
"""

import argparse
import contextlib
import io
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from proxy.cli import chat_models, local_model
from proxy.cli.local_model import LocalModelError

if TYPE_CHECKING:
    import openai

PORT = 8080
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MAX_TOKENS = 40
SMALL_BUDGET = 120  # tokens: room for a turn or two of these
TIME_LIMIT_S = 120
INSTRUCTIONS = "Answer in one sentence. Call the user by name."
INTRODUCTION = "My name is Ada and I live in Paris."
QUESTION = "What is my name?"
FILLERS = ("Tell me a fact about tea.", "And one about coffee.", "Which of them is older?", "Which one do you like?")


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--once", action="store_true", help="exit after the conversation: 0 if every check held, else 1"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="use the upstreams and settings of this file")
    parser.add_argument("--port", type=int, help=f"port on 127.0.0.1 (default: {PORT}, or a free one if it is in use)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the database is kept (default: ./data)")
    parser.add_argument("--model", help="model to talk to (default: the first chat model that the upstream lists)")


def run(args: argparse.Namespace) -> int:
    """Start what is needed, hold the conversation, keep serving; 0 when every check held."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model may say what the terminal cannot print
    try:
        return _demo(args)
    except LocalModelError as exc:
        note(f"session-proxy demo: {exc}")
        return exc.exit_code
    except KeyboardInterrupt:
        note("\ninterrupted before the conversation was over")
        return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the processes we started are ended first, and that has a time limit
    raise KeyboardInterrupt


def _demo(args: argparse.Namespace) -> int:
    local_model.require("openai")
    if args.config and not args.config.is_file():
        raise LocalModelError(f"there is no configuration file {args.config}", exit_code=2)
    port = pick_port(args.port)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="session-proxy-")))
        data = _data_dir(args, scratch)
        upstream = None if _configured(args) else stack.enter_context(_local_upstream())
        config = args.config or _write_config(scratch / "config.yaml", data, upstream)
        log = stack.enter_context((data / "demo.log").open("w+b"))
        process = stack.enter_context(local_model.started(_server(args, config, port, data), log))
        base_url = f"http://127.0.0.1:{port}/v1"
        passed = converse(base_url, args.model or (local_model.ALIAS if upstream else None))
        if not args.once:
            kept = "the configured database" if _own_storage(args) else str(data / "demo.db")
            _usage(base_url, kept, local_model.ALIAS if upstream else "YOUR-MODEL")
            try:
                process.wait()
                raise LocalModelError(f"the proxy ended (exit code {process.returncode}):\n{local_model.tail(log)}")
            except KeyboardInterrupt:
                note("\nstopping")
    return 0 if passed else 1


# What is started ---------------------------------------------------------------------------------------------------


def pick_port(wanted: int | None) -> int:
    """The port that was asked for, or the usual one, or any free one: only what the user named must be had."""
    if _is_free(wanted or PORT):
        return wanted or PORT
    if wanted:
        raise LocalModelError(f"port {wanted} is in use: choose another with --port, or leave --port out")
    port = local_model.free_port()
    note(f"port {PORT} is in use: serving on {port} instead")
    return port


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OverflowError as exc:
        raise LocalModelError(f"there is no port {port}: a port is a number from 1 to 65535", exit_code=2) from exc
    except OSError:
        return False
    return True


def _data_dir(args: argparse.Namespace, scratch: Path) -> Path:
    data = args.data or (scratch if args.once else Path("data"))
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise LocalModelError(f"cannot make the directory {data} ({exc.strerror}): name another with --data") from exc
    return data.resolve()


def _configured(args: argparse.Namespace) -> bool:
    return bool(args.config or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_KEY"))


@contextlib.contextmanager
def _local_upstream() -> Generator[str]:
    local_model.require("xllamacpp")
    note("no upstream is configured: starting a small local model (its first start downloads 93 MB)")
    with local_model.running() as base_url:
        yield base_url


def _write_config(path: Path, data: Path, upstream: str | None) -> Path:
    """A configuration for one run. Without `upstream` the server takes OPENAI_BASE_URL and OPENAI_API_KEY itself."""
    config: dict[str, Any] = {"auth": {"mode": "open"}, "storage": {"url": _storage(data)}}
    if upstream:
        config["upstreams"] = [{"name": "local", "base_url": upstream, "api_key": "none", "models": ["*"]}]
    path.write_text(json.dumps(config, indent=2))  # JSON is YAML
    return path


def _own_storage(args: argparse.Namespace) -> bool:
    return bool(args.config and not (args.once or args.data))


def _storage(data: Path) -> str:
    return f"sqlite:///{data / 'demo.db'}"


def _server(args: argparse.Namespace, config: Path, port: int, data: Path) -> local_model.Child:
    return local_model.Child(
        name="the proxy",
        module="proxy",
        args=("serve", "--config", str(config), "--host", "127.0.0.1", "--port", str(port)),
        ready_url=f"http://127.0.0.1:{port}/healthz",
        env={} if _own_storage(args) else {"PROXY_STORAGE__URL": _storage(data)},
    )


# The conversation --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """An answer, and what the proxy and the model server say about it."""

    text: str
    pieces: int
    prompt_tokens: int
    completion_tokens: int
    headers: Mapping[str, str]

    @property
    def turn(self) -> str:
        return self.headers.get("x-session-turn", "none")

    @property
    def dropped(self) -> int:
        value = self.headers.get("x-context-dropped", "")
        return int(value) if value.isdigit() else 0

    @property
    def ledger(self) -> dict[str, int]:
        return parse_ledger(self.headers.get("x-context-tokens", ""))


@dataclass(frozen=True)
class Talk:
    """One conversation: the SDK's client, the session that the proxy keeps, and what was answered so far."""

    client: "openai.OpenAI"
    model: str
    session: str
    replies: list[Reply] = field(default_factory=list)


class Check(NamedTuple):
    """One thing that must hold: what it shows, and what was found."""

    held: bool
    shows: str
    found: str


def parse_ledger(header: str) -> dict[str, int]:
    """`total=31;history=23` as a dictionary; what is not a number is left out."""
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return {name: int(value) for name, _, value in pairs if value.isdigit()}


def converse(base_url: str, model: str | None) -> bool:
    """Hold the conversation with the proxy at `base_url`, printing it; True when every check held."""
    import openai  # an optional extra, and half a second of import

    key = os.environ.get("OPENAI_API_KEY") or "demo"
    direct = openai.DefaultHttpxClient(trust_env=False)  # loopback: never through the environment's proxy
    with openai.OpenAI(
        base_url=base_url, api_key=key, max_retries=0, timeout=TIME_LIMIT_S, http_client=direct
    ) as client:
        try:
            talk = Talk(client, model or _first_model(client), f"demo-{secrets.token_hex(3)}")
            say(f"A conversation with {talk.model} through {base_url}, by the official openai SDK")
            checks = [check for number, step in enumerate(STEPS, 1) for check in _step(number, step, talk)]
        except openai.OpenAIError as exc:
            raise LocalModelError(f"the conversation broke off: {exc}") from exc
    failed = sum(not check.held for check in checks)
    say(f"\n{len(checks)} checks, all held" if not failed else f"\n{failed} of {len(checks)} checks failed")
    return not failed


def _first_model(client: "openai.OpenAI") -> str:
    names = chat_models.chatting(model.id for model in client.models.list())
    if not names:
        raise LocalModelError("the upstream lists no chat model: name one with --model")
    return names[0]


def _step(number: int, step: Callable[[Talk], list[Check]], talk: Talk) -> list[Check]:
    say(f"\n{number}. {step.__doc__}")
    checks = step(talk)
    for check in checks:
        say(line("ok" if check.held else "FAILED", f"{check.shows}: {check.found}"))
    return checks


def stateless(talk: Talk) -> list[Check]:
    """Without a session the model knows nothing of you"""
    reply = ask(talk, QUESTION, session=False, system=INSTRUCTIONS)
    return [Check(reply.turn == "none", "no X-Session-Id was sent, so no turn was stored; X-Session-Turn", reply.turn)]


def remembers(talk: Talk) -> list[Check]:
    """With a session: say who you are, then send the question ALONE"""
    first = ask(talk, INTRODUCTION, system=INSTRUCTIONS)
    say(line("note", "the overhead of a proxy's first turn includes loading the tokenizer"))
    say("")
    second, bare = ask(talk, QUESTION), talk.replies[0]
    read = f"{second.prompt_tokens} against {bare.prompt_tokens} prompt tokens"
    parts = f"system {second.ledger.get('system', 0)}, history {second.ledger.get('history', 0)} tokens"
    return [
        Check((first.turn, second.turn) == ("1", "2"), "these are turns 1 and 2", f"{first.turn} and {second.turn}"),
        Check(second.prompt_tokens > bare.prompt_tokens, "the model read more than without a session", read),
        Check(min(second.ledger.get(name, 0) for name in ("system", "history")) > 0, "the proxy added turn 1", parts),
    ]


def streams(talk: Talk) -> list[Check]:
    """Streaming: the same session, the tokens as they arrive"""
    reply = ask(talk, "Which city do I live in?", stream=True)
    return [
        Check(reply.turn == "3", "this is turn 3", reply.turn),
        Check(reply.pieces > 1, "the answer came in pieces", str(reply.pieces)),
    ]


def fits_the_budget(talk: Talk) -> list[Check]:
    """A small budget (header X-Session-Token-Budget): old turns are left out, the conversation goes on"""
    replies: list[Reply] = []
    for filler in FILLERS:
        say("" if replies else line("budget", f"{SMALL_BUDGET} tokens"))
        replies.append(ask(talk, filler, budget=SMALL_BUDGET))
        if replies[-1].dropped:
            break
    largest = max(reply.ledger.get("estimate", SMALL_BUDGET + 1) for reply in replies)
    return [
        Check(replies[-1].dropped > 0, "old messages were left out; X-Context-Dropped", str(replies[-1].dropped)),
        Check(largest <= SMALL_BUDGET, "no request was over the budget; the largest estimate", str(largest)),
    ]


STEPS = (stateless, remembers, streams, fits_the_budget)


def ask(
    talk: Talk, question: str, *, system: str = "", session: bool = True, budget: int = 0, stream: bool = False
) -> Reply:
    """Send ONE message (turn 1 has instructions besides), print the answer and its ledger."""
    said = [("system", system)] * bool(system) + [("user", question)]
    headers = {"X-Session-Id": talk.session} if session else {}
    if budget:
        headers["X-Session-Token-Budget"] = str(budget)
    body = {"model": talk.model, "max_tokens": MAX_TOKENS, "temperature": 0, "extra_headers": headers}
    body["messages"] = [{"role": role, "content": text} for role, text in said]
    for role, text in said:
        say(line(role, text))
    print(line("model", ""), end="", flush=True)
    reply = (_streamed if stream else _whole)(talk, body)
    say("")
    say(_ledger_lines(reply))
    talk.replies.append(reply)
    return reply


def _whole(talk: Talk, body: dict[str, Any]) -> Reply:
    raw = talk.client.chat.completions.with_raw_response.create(**body)
    done: Any = raw.parse()
    text = done.choices[0].message.content or ""
    print(" ".join(text.split()), end="")
    return _reply(text, 1, done.usage, raw.headers)


def _streamed(talk: Talk, body: dict[str, Any]) -> Reply:
    raw = talk.client.chat.completions.with_raw_response.create(
        **body, stream=True, stream_options={"include_usage": True}
    )
    chunks: Any = raw.parse()
    usage, pieces = None, []
    for chunk in chunks:
        usage = chunk.usage or usage  # its own chunk, the last, has no choices
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            print(pieces[-1].replace("\n", " "), end="", flush=True)
    return _reply("".join(pieces), sum(map(bool, pieces)), usage, raw.headers)


def _reply(text: str, pieces: int, usage: Any, headers: Mapping[str, str]) -> Reply:
    return Reply(text, pieces, usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0, headers)


# What is printed ---------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def line(label: str, text: str) -> str:
    return f"   {label:<7} {text}"


def _ledger_lines(reply: Reply) -> str:
    usage = line("usage", f"{reply.prompt_tokens} prompt tokens read, {reply.completion_tokens} written")
    if not reply.ledger:
        return usage
    parts = ", ".join(f"{name} {reply.ledger.get(name, 0)}" for name in ("system", "history", "recall", "new"))
    budget = reply.ledger.get("budget")
    facts = [
        f"turn {reply.turn}",
        f"sent {reply.ledger.get('total', 0)} tokens (about {reply.ledger.get('estimate', 0)} for the model"
        + (f", budget {budget})" if budget else ")")
        + f": {parts}",
        f"dropped {reply.dropped}",
        reply.headers.get("x-context-strategy", "-"),
        f"overhead {reply.headers.get('x-proxy-overhead-ms', '?')} ms",
    ]
    return line("ledger", " | ".join(facts)) + "\n" + usage


def _usage(base_url: str, kept: str, model: str) -> None:
    say(f"""
Now it is yours. The proxy serves {base_url}, and its sessions are in {kept}:

   curl {base_url}/chat/completions -H 'Content-Type: application/json' -H 'X-Session-Id: me' \\
     -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello, I am Ada."}}]}}'

   from openai import OpenAI
   client = OpenAI(base_url="{base_url}", api_key="any", default_headers={{"X-Session-Id": "me"}})
   client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Who am I?"}}])
""")
    note("Ctrl-C stops it.")
