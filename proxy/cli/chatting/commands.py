"""The commands of the chat: what begins with a slash."""

import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from proxy.cli.chatting import record, sent, told
from proxy.cli.chatting.clean import one_line
from proxy.cli.chatting.client import Failed
from proxy.cli.chatting.record import Record
from proxy.cli.chatting.talk import Talk

TURNS = 10
"""Turns that /history shows."""
LISTED = 10
"""Sessions that /session shows."""
LOOKED = 20
"""Turns of all branches among which /undo looks for the last one of its branch."""


class Quit(Exception):
    """The user has enough."""


class Command(NamedTuple):
    """`argument` of a call: what stands behind the command's name."""

    run: Callable[[Talk, str], Awaitable[None]]
    usage: str
    does: str


async def run(talk: Talk, line: str) -> None:
    """Carries out a command. Raises Failed, and Quit."""
    name, _, argument = line.partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise Failed(0, f"there is no command {one_line(name, 40)}; there are {', '.join(COMMANDS)}")
    await command.run(talk, argument.strip())


async def _context(talk: Talk, argument: str) -> None:
    turn = _number(argument, "/context 3 shows turn 3") if argument else talk.turn
    if turn is None or talk.known is None:
        raise Failed(0, "nothing was sent in this session yet")
    ledger = await talk.proxy.get(f"{talk.known}/turns/{turn}/context")
    ledger = sent.titled(ledger, {one: await _title(talk, one) for one in sent.documents(ledger)})
    console = talk.screen.console
    plain = console.no_color or console.color_system is None or console.options.ascii_only
    talk.screen.show(*sent.context(ledger, console.width - 1, plain))


async def _title(talk: Talk, document: str) -> str:
    try:
        return str((await talk.proxy.get("/docs/" + urllib.parse.quote(document, safe="")))["title"])
    except Failed as exc:
        if exc.status != 404:
            raise
        return "a deleted document"


async def _history(talk: Talk, argument: str) -> None:
    turns = 0 if argument == "all" else _number(argument, "/history 20, or /history all") if argument else TURNS
    found = await _record(talk)
    line = found.line(found.current if talk.branch is None else talk.branch)
    shown = record.newest(line, turns)
    if len(shown) < len(line):
        talk.screen.note(f"{len(line) - len(shown)} messages before these; /history all shows everything")
    talk.screen.show(*told.history(shown))
    if not line:
        talk.screen.note("nothing was said on this branch yet")


async def _branch(talk: Talk, argument: str) -> None:
    if argument.startswith("at "):
        await _fork(talk, argument[3:])
        return
    found = await _record(talk)
    listed = (await talk.proxy.get(f"{talk.known}/branches"))["items"]
    if not argument:
        talk.screen.show(*told.branches(listed, found, talk.branch))
        return
    number = _number(argument, "/branch 2 switches to branch 2, /branch at 3 begins one after turn 3")
    if number not in [one["id"] for one in listed]:
        raise Failed(0, f"there is no branch {number}; /branch lists them")
    talk.branch = None if number == found.current else number
    talk.screen.show(*told.history(record.newest(found.line(number), 1)))
    talk.screen.note(f"the next message goes on with branch {number}")


async def _fork(talk: Talk, argument: str) -> None:
    known = _known(talk)
    at = _number(argument, "/fork 3 begins a branch after turn 3, /fork 0 before the first one")
    made = await talk.proxy.post(f"{known}/fork", {"at": at})
    talk.branch = None
    talk.screen.note(f"branch {made['id']} begins after turn {at}; the next message goes on with it")


async def _undo(talk: Talk, argument: str) -> None:
    known = _known(talk)
    current = await _current(talk)
    number = current["id"]
    if talk.branch is not None:
        raise Failed(
            0,
            f"/undo takes back a turn of the current branch, which is {number}; the next message is for "
            f"{talk.branch}, /branch {number} goes back",
        )
    last = await _last(talk, current)
    made = await talk.proxy.post(f"{known}/undo", {})
    turn = f"turn {last}" if last else "the last turn"
    talk.screen.note(f"{turn} no longer stands; it stays readable on branch {number}")
    talk.screen.note(f"the next message goes on with branch {made['id']}, after turn {made['forked_at']}")


async def _current(talk: Talk) -> Mapping[str, Any]:
    """The session's current branch, as the Sessions API shows it."""
    seen = 0
    while listed := (await talk.proxy.get(f"{talk.known}/branches", offset=seen))["items"]:
        for one in listed:
            if one["current"]:
                return one
        seen += len(listed)
    raise Failed(0, "the proxy names no current branch")


async def _last(talk: Talk, branch: Mapping[str, Any]) -> int | None:
    """The last turn of a branch: one of its own, or the one that it begins after; None if it is not among the last."""
    if not branch["turns"]:
        return branch["forked_at"]
    listed = (await talk.proxy.get(f"{talk.known}/turns", limit=LOOKED))["items"]
    return next((one["turn"] for one in listed if one["branch"] == branch["id"]), None)


async def _model(talk: Talk, argument: str) -> None:
    names = await talk.listed_models()
    if not argument:
        talk.screen.show(*told.models(names, talk.model))
        return
    talk.model, talk.wished = argument, True
    unlisted = "" if argument in names else "; the proxy does not list it, so it may be refused"
    talk.screen.note(f"the next message goes to {one_line(argument, 100)}{unlisted}")


async def _session(talk: Talk, argument: str) -> None:
    if argument:
        await talk.enter(argument)
        talk.screen.note(greeting(talk))
        return
    talk.screen.note(greeting(talk))
    listed = (await talk.proxy.get("/sessions", limit=LISTED, sort_by="updated_at"))["items"]
    if listed:
        talk.screen.show(*told.sessions(listed, talk.session))


async def _help(talk: Talk, argument: str) -> None:
    talk.screen.show(*told.commands((command.usage, command.does) for command in COMMANDS.values()))
    talk.screen.note("A line that ends in \\ goes on in the next one; // sends a message that begins with a slash.")
    talk.screen.note("Ctrl-C stops an answer, Ctrl-D ends the chat.")


async def _quit(talk: Talk, argument: str) -> None:
    raise Quit


COMMANDS = {
    "/context": Command(_context, "/context [TURN]", "what was sent for the last turn, and why"),
    "/history": Command(_history, "/history [N]", f"the last {TURNS} turns of the branch, or N, or all"),
    "/branch": Command(_branch, "/branch [N]", "the branches, or go on with one"),
    "/fork": Command(_fork, "/fork TURN", "begin a branch after a turn; also /branch at TURN"),
    "/undo": Command(_undo, "/undo", "take back the last turn"),
    "/model": Command(_model, "/model [NAME]", "the models, or take another one"),
    "/session": Command(_session, "/session [NAME]", "the sessions, or take another one"),
    "/help": Command(_help, "/help", "this list"),
    "/quit": Command(_quit, "/quit", "end the chat"),
}


def greeting(talk: Talk) -> str:
    """Where the chat is."""
    state = "new" if talk.turn is None else f"turn {talk.turn}"
    model = one_line(talk.model, 100) if talk.model else "no model named; /model lists them"
    return f"session {talk.session} ({state}) | {model}"


async def _record(talk: Talk) -> Record:
    return record.read(await talk.proxy.lines(f"{_known(talk)}/export"))


def _known(talk: Talk) -> str:
    """Where the Sessions API has the session. Raises Failed while nothing is stored."""
    if talk.known is None:
        raise Failed(0, "nothing was said in this session yet")
    return talk.known


def _number(argument: str, example: str) -> int:
    if not (argument.isascii() and argument.isdigit() and len(argument) < 16):
        raise Failed(0, f"{one_line(argument, 40) or 'nothing'} is no number; {example}")
    return int(argument)
