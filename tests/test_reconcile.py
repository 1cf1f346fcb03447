"""What is new in a request, and where it continues."""

import base64
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from proxy.reconcile import Path, Said, digest, heads, reconcile
from proxy.types import Mode, Sent
from tests.clients import Conversation, Held, Message, Step, spoken


def user(content: Any, **fields: Any) -> Message:
    return {"role": "user", "content": content, **fields}


def says(content: Any, **fields: Any) -> Message:
    return {"role": "assistant", "content": content, **fields}


def asks(name: str = "look", arguments: str = '{"at": 1}', id: str = "c1", **fields: Any) -> Message:
    call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call], **fields}


def result(content: Any, id: str = "c1", **fields: Any) -> Message:
    return {"role": "tool", "tool_call_id": id, "content": content, **fields}


# --- equality ---

EQUAL: list[tuple[str, Message, Message]] = [
    ("white space around a text", user(" hello\n"), user("hello")),
    ("null and an empty text", says(None), says("")),
    ("a missing text and an empty one", {"role": "assistant"}, says("")),
    ("no parts and an empty text", says([]), says("")),
    ("one text part and a string", user([{"type": "text", "text": "hi"}]), user("hi")),
    ("hints of the cache", user([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]), user("a")),
    ("a leading thinking block", says("<think>let me see</think>\n\nnoon"), says("noon")),
    ("vendor fields", says("noon", reasoning_content="hm", x_vendor={"a": 1}), says("noon")),
    ("the ids of calls", asks(id="c1"), asks(id="call_99")),
    ("the ids that results answer", result("42", "c1"), result("42", "call_99")),
    ("the spelling of arguments", asks(arguments='{"a":1,"b":[2]}'), asks(arguments='{ "b": [2], "a": 1 }')),
    ("an empty text beside calls", asks(content=""), asks(content=None)),
    ("the name of an assistant", says("noon", name="bot"), says("noon")),
    ("the name beside a result", result("42", name="look"), result("42")),
    ("no name and null", user("hi", name=None), user("hi")),
    ("a null refusal", says("no", refusal=None), says("no")),
    ("no calls", says("hi", tool_calls=None), says("hi", tool_calls=[])),
    (
        "the detail of an image",
        user([{"type": "image_url", "image_url": {"url": "https://a/b.png", "detail": "low"}}]),
        user([{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]),
    ),
]

DIFFERENT: list[tuple[str, Message, Message]] = [
    ("texts", user("hello"), user("hello there")),
    ("roles", user("hello"), says("hello")),
    ("white space inside", user("a b"), user("a  b")),
    ("names of users", user("hi", name="ann"), user("hi", name="bob")),
    ("names of tools", asks("look"), asks("find")),
    ("arguments", asks(arguments='{"at": 1}'), asks(arguments='{"at": 2}')),
    ("calls and none", asks(content="hi"), says("hi")),
    ("thinking of users", user("<think>a</think>b"), user("b")),
    ("thinking that never ends", says("<think>a"), says("")),
    ("refusals", says(None, refusal="no"), says(None, refusal="never")),
    (
        "images",
        user([{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]),
        user([{"type": "image_url", "image_url": {"url": "https://a/c.png"}}]),
    ),
    ("files", user([{"type": "file", "file": {"file_id": "a"}}]), user([{"type": "file", "file": {"file_id": "b"}}])),
    (
        "sounds",
        user([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
        user([{"type": "input_audio", "input_audio": {"data": "BBBB", "format": "wav"}}]),
    ),
    ("unknown parts", user([{"type": "video", "video": "a"}]), user([{"type": "video", "video": "b"}])),
    (
        "two texts and one",
        user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        user([{"type": "text", "text": "ab"}]),
    ),
]


@pytest.mark.parametrize(("one", "other"), [pair[1:] for pair in EQUAL], ids=[pair[0] for pair in EQUAL])
def test_these_do_not_count(one: Message, other: Message) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(("one", "other"), [pair[1:] for pair in DIFFERENT], ids=[pair[0] for pair in DIFFERENT])
def test_these_make_two_messages_differ(one: Message, other: Message) -> None:
    assert digest(one) != digest(other)


def test_results_are_told_apart_by_the_call_they_answer() -> None:
    assert digest(result("ok"), 0) != digest(result("ok"), 1)


def test_arguments_that_are_not_json_equal_themselves() -> None:
    assert digest(asks(arguments='{"broken')) == digest(asks(arguments='{"broken', id="c2"))
    assert digest(asks(arguments='{"broken')) != digest(asks(arguments='{"other'))


def test_a_digest_is_sixteen_bytes_whatever_the_message() -> None:
    data = base64.b64encode(bytes(1000)).decode()
    odd: list[Message] = [
        user("\x00 <|endoftext|> \ufffd"),
        user([{"type": "file", "file": {"file_data": data}}]),
        says([{"type": "refusal", "refusal": "no"}]),
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]},
    ]
    assert {len(digest(message)) for message in odd} == {16}


ECHOED: list[tuple[str, Message, Message]] = [
    (
        "a refusal",
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "assistant", "content": "", "refusal": "no", "annotations": None, "audio": None, "tool_calls": None},
    ),
    (
        "a call of the old kind",
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1,"b":2}'}},
        {"role": "assistant", "function_call": {"arguments": '{"b": 2, "a": 1}', "name": "f"}, "refusal": None},
    ),
    (
        "a custom call",
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "sh", "input": "ls -l"}}]},
        {"role": "assistant",
         "tool_calls": [{"type": "custom", "id": "b", "custom": {"input": "ls -l", "name": "sh"}}]},
    ),
    (
        "an answer aloud",
        {"role": "assistant", "content": None,
         "audio": {"id": "a", "data": "AAAA", "transcript": "hello", "expires_at": 9}},
        {"role": "assistant", "audio": {"id": "a"}},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("stored", "echo"), [row[1:] for row in ECHOED], ids=[row[0] for row in ECHOED])
def test_an_answer_of_another_kind_equals_its_echo_and_no_other(stored: Message, echo: Message) -> None:
    assert digest(stored) == digest(echo)
    others = [other for _, other, _ in ECHOED if other is not stored]
    assert digest(stored) not in [digest(other) for other in [*others, says(""), says("no")]]


# --- the four rules ---


def sent_of(messages: Sequence[Message]) -> list[Sent]:
    """As recollect.py reads them, for results that stand in the order of their calls."""
    out: list[Sent] = []
    place = 0
    for value in messages:
        place = place + 1 if value["role"] == "tool" else -1
        calls = tuple(call["id"] for call in value.get("tool_calls") or ())
        out.append(Sent(value["role"], b"", value, digest(value, max(place, 0)), calls, value.get("tool_call_id")))
    return out


def path(number: int, line: Sequence[Message], short: dict[int, str] | None = None) -> Path:
    return Path(number, 1, [message.digest for message in sent_of(line)], short or {})


def decide(paths: Sequence[Path], sent: Sequence[Message], mode: Mode = "auto") -> Said:
    return reconcile(paths, sent_of(sent), mode, _stored_in(paths))


def _stored_in(paths: Iterable[Path]) -> Callable[[bytes], bool]:
    return {mark for one in paths for mark in one.digests}.__contains__


U1, A1, U2, A2, U3 = user("u1"), says("a1"), user("u2"), says("a2"), user("u3")
TALK = [U1, A1, U2, A2]

DECISIONS: list[tuple[str, list[Message], Said]] = [
    ("a new question is appended", [U3], Said(1, 0)),
    ("a repeated question is no evidence", [U1], Said(1, 0)),
    ("a whole conversation continues", [*TALK, U3], Said(1, 4)),
    ("a trimmed one too", [U2, A2, U3], Said(1, 2)),
    ("an answer alone shows where it stands", [A2, U3], Said(1, 1)),
    ("a conversation without anything new continues", TALK, Said(1, 4)),
    ("a changed question starts a branch before it", [U1, A1, U3], Said(1, 2, fork_at=2)),
    ("a changed answer starts a branch after its question", [U1, says("other"), U3], Said(1, 1, fork_at=1)),
    ("a regeneration takes its question along", [U1, A1, U2], Said(1, 2, fork_at=2)),
    ("a changed first question starts a branch from the root", [user("new"), A1, U2], Said(1, 0, fork_at=0)),
    ("several questions are appended", [U2, U3], Said(1, 0)),
    ("unknown examples are appended", [user("x"), says("y"), user("z")], Said(1, 0)),
    ("nothing is nothing", [], Said(1, 0)),
]


@pytest.mark.parametrize(("sent", "said"), [row[1:] for row in DECISIONS], ids=[row[0] for row in DECISIONS])
def test_on_a_line_of_two_turns(sent: list[Message], said: Said) -> None:
    assert decide([path(1, TALK)], sent) == said


def test_mode_append_takes_all_as_new() -> None:
    assert decide([path(1, TALK)], [*TALK, U3], "append") == Said(1, 0)


OLD = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
OLD_RESULT = {"role": "function", "name": "f", "content": "42"}


def test_results_of_the_old_kind_answer_what_was_called_last_though_they_stand_elsewhere() -> None:
    line = [U1, OLD, OLD_RESULT, A1, U2, OLD]
    assert decide([path(1, line)], [OLD_RESULT]) == Said(1, 0)
    assert decide([path(1, line)], [U2, OLD, OLD_RESULT]) == Said(1, 2)
    assert decide([path(1, line)], [*line, OLD_RESULT]) == Said(1, 6)


RESENDS: list[tuple[str, list[Message], Said]] = [
    ("all of it continues", [*TALK, U3], Said(1, 4)),
    ("a lone first question is a regeneration", [U1], Said(1, 0, fork_at=0)),
    ("a window is a new conversation", [U2, A2, U3], Said(1, 0, fork_at=0)),
    ("what is unknown starts from the root", [U3], Said(1, 0, fork_at=0)),
    ("a changed question starts a branch before it", [U1, A1, U3], Said(1, 2, fork_at=2)),
]


@pytest.mark.parametrize(("sent", "said"), [row[1:] for row in RESENDS], ids=[row[0] for row in RESENDS])
def test_mode_resend_takes_what_is_sent_for_the_conversation(sent: list[Message], said: Said) -> None:
    assert decide([path(1, TALK)], sent, "resend") == said


def test_the_branch_whose_end_is_reached_becomes_current() -> None:
    other = [U1, A1, user("u2'"), says("a2'")]
    assert decide([path(2, other), path(1, TALK)], [*TALK, U3]) == Said(1, 4)


def test_the_current_branch_wins_when_two_end_alike() -> None:
    assert decide([path(2, [user("x"), A2]), path(1, TALK)], [A2, U3]) == Said(2, 1)


def test_an_earlier_equal_stretch_does_not_hide_the_end() -> None:
    line = [U1, A1, U1, A1, U1, A1]
    assert decide([path(1, line)], [*line, U2]) == Said(1, 6)
    assert decide([path(1, line)], [U1, A1, U2]) == Said(1, 2)


def test_results_continue_after_the_calls_they_answer() -> None:
    line = [U1, asks()]
    assert decide([path(1, line)], [*line, result("42")]) == Said(1, 2)
    assert decide([path(1, line)], [result("42")]) == Said(1, 0)


@pytest.mark.parametrize("echo", ["The answer is fo", "The answer is forty-two", "The answer is forty-two, of course"])
def test_a_reply_that_broke_off_equals_any_prefix_and_any_extension(echo: str) -> None:
    line = [U1, says("The answer is forty-two")]
    assert decide([path(1, line, {1: "The answer is forty-two"})], [U1, says(echo), U2]) == Said(1, 2)


def test_a_reply_that_broke_off_equals_nothing_else() -> None:
    line = [U1, says("The answer is")]
    assert decide([path(1, line, {1: "The answer is"})], [U1, says("An answer"), U2]) == Said(1, 1, fork_at=1)
    assert decide([path(1, line, {1: "The answer is"})], [U1, says(""), U2]) == Said(1, 1, fork_at=1)


def test_heads_are_those_a_plain_search_finds() -> None:
    draw = random.Random(random.random())
    words = [user(text) for text in "ab"]
    for _ in range(3000):
        line = draw.choices(words, k=draw.randint(0, 12))
        sent = draw.choices(words, k=draw.randint(1, 6))
        found = heads(path(1, line), sent_of(sent))
        assert found == [_longest(line[: n + 1], sent) for n in range(len(line))], (line, sent)


def _longest(upto: Sequence[Message], sent: Sequence[Message]) -> int:
    return max(n for n in range(len(sent) + 1) if n == 0 or list(upto[-n:]) == list(sent[:n]))


# --- random clients of every kind ---


def follow(c: Conversation, step: Step) -> tuple[int, list[Message], list[Message]]:
    """(branch, what stands before, what is new) as the product decides."""
    if not c.lines:
        return 1, [], list(step.sent)
    order = sorted(c.lines, key=lambda number: number != c.current)
    paths = {number: _path(number, c.lines[number]) for number in order}
    sent = sent_of(step.sent)
    said = reconcile(list(paths.values()), sent, step.mode, _stored_in(paths.values()))
    line = spoken(c.lines[said.branch])
    at = len(line) if said.fork_at is None else said.fork_at
    standing = paths[said.branch].digests[at - said.known : at]
    assert standing == [message.digest for message in sent[: said.known]], "not known where the request continues"
    number = said.branch if said.fork_at is None else len(c.lines) + 1
    return number, line[:at], list(step.sent[said.known :])


def _path(number: int, line: Sequence[Held]) -> Path:
    return path(number, spoken(line), {n: held.value["content"] for n, held in enumerate(line) if held.short})


def talk(c: Conversation, step: Step) -> None:
    """The turn takes place as the model says, now and then with a reply that breaks off."""
    reply = c.reply()
    c.stored(step, reply, short=c.unique and reply["content"] is not None and c.random.random() < 0.15)


def test_every_kind_of_client_finds_its_conversation_again_once_and_whole() -> None:
    seed = random.randrange(2**32)
    shapes = set()
    for n in range(10_000):
        c = Conversation(random.Random(seed + n))
        for _ in range(c.random.randint(2, 9)):
            step = c.step()
            if step.shape == "retry after a break":  # turns decide that: see test_recollect.py
                continue
            number, kept, new = follow(c, step)
            assert [*kept, *new] == [*spoken(step.kept), *step.new], (seed + n, step)
            assert number == step.number, (seed + n, step)
            shapes.add(step.shape)
            talk(c, step)
            if step.repeats:
                break
    assert len(shapes) >= 15


def marks(line: Sequence[Message]) -> list[bytes]:
    return [message.digest for message in sent_of(line)]


SAME_WHATEVER_IS_REPEATED = ("delta", "several", "append", "resend", "resend of an edit")


def test_repeated_texts_remove_nothing_and_the_newest_message_comes_last() -> None:
    seed = random.randrange(2**32)
    for n in range(3_000):
        c = Conversation(random.Random(seed + n), unique=False)
        for _ in range(c.random.randint(2, 9)):
            step = c.step()
            if step.sent[0]["role"] == "tool":  # results alone are placed by their ids: see test_recollect.py
                continue
            current = c.current
            number, kept, new = follow(c, step)
            line = marks([*kept, *new])
            assert line[-1:] == marks(step.sent)[-1:], (seed + n, step)
            if step.shape in SAME_WHATEVER_IS_REPEATED or (step.shape == "full" and step.number == current):
                assert line == marks([*spoken(step.kept), *step.new]), (seed + n, step)
            talk(c, Step(step.shape, step.sent, [Held(value, 0) for value in kept], new, number, step.mode))
