"""Where a turn continues and what it finds there: random clients against the real store and the real path of a turn."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import BadRequest, UpstreamRefused
from proxy.services import Services
from proxy.store import sessions
from proxy.types import Scope
from tests.clients import Conversation, Held, Message, Step, spoken
from tests.inprocess import Ask, Model, begun, left, run, says, services, user

pytestmark = pytest.mark.anyio

SYNTHETIC = "No result was recorded for this tool call."


def plain(message: Message) -> Any:
    """What a message says, however it is spelt: written without a look at the product's own rule."""
    content = message.get("content") or ""
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    text = text.split("</think>")[-1].strip() if message["role"] == "assistant" else text.strip()
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    made = [(call["name"], json.dumps(json.loads(call["arguments"]), sort_keys=True)) for call in calls]
    return message["role"], text, made


def in_groups(line: Sequence[Message]) -> list[Any]:
    """What a line says, the results of a group as a set."""
    out: list[Any] = []
    for message in line:
        if message["role"] == "tool" and out and isinstance(out[-1], list):
            out[-1] = sorted([*out[-1], plain(message)])
        else:
            out.append([plain(message)] if message["role"] == "tool" else plain(message))
    return out


@dataclass
class Table:
    """A session, its client and the model that answers."""

    svc: Services
    model: Model
    talk: Conversation
    name: str

    async def turn(self, step: Step) -> None:
        """One turn of any outcome, compared with what it has to be."""
        draw = self.talk.random
        system = draw.choices((None, self.talk.text(), ""), (8, 3, 1))[0]
        lead = [] if system is None else [{"role": "system", "content": system}]
        forces = self._inherited(step) if system is None else {system or None}
        observe = step.mode == "auto" and len(forces) == 1 and draw.random() < 0.1
        mode = "observe" if observe else step.mode
        ask = Ask([*lead, *step.sent], self.name, mode, draw.random() < 0.5, draw.random() < 0.93)
        self.model.says = reply = self.talk.reply() | {"reasoning_content": "hm"}
        short = ask.stream and reply["content"] is not None and self.talk.unique and draw.random() < 0.15
        if draw.random() < 0.05:
            await self._refused(ask)
            return
        number = await self._answered(ask, short)
        sent = self.model.requests[-1]["messages"]
        force = sent[0]["content"] if sent[0]["role"] == "system" else None
        if mode == "observe":
            assert sent == ask.messages
            force = next(iter(forces))
        else:
            assert force in forces
            self._check_forwarded(sent[force is not None :], step)
        if number is not None:
            assert number == (self.talk.turns + 1, step.number)
        if ask.save:
            cut = {"role": "assistant", "content": reply["content"][:7]} if short else reply
            self.talk.stored(step, cut, short, force)

    async def _answered(self, ask: Ask, short: bool) -> tuple[int, int] | None:
        """(turn, branch) as told to the client; None if it left or did not want to be remembered."""
        if short:
            await left(self.svc, ask)
            return None
        begin = await begun(self.svc, ask)
        return None if begin.number is None else (begin.number, begin.branch)

    async def _refused(self, ask: Ask) -> None:
        self.model.says = UpstreamRefused(429, "slow down", body=None, headers={})
        with pytest.raises(UpstreamRefused):
            await run(self.svc, ask)

    def _inherited(self, step: Step) -> set[str | None]:
        """The instructions at the end of what is kept, or of the turn that is repeated. The same beginning may stand on
        two lines."""
        if step.shape == "retry after a break":
            return {self.talk.line[-1].system}
        end = len(step.kept)
        alike = [line for line in self.talk.lines.values() if spoken(line[:end]) == spoken(step.kept)]
        return {line[end - 1].system for line in alike} if end else {None}

    def _check_forwarded(self, sent: list[Message], step: Step) -> None:
        """The whole line as it was said first, with every call answered."""
        said = [message for message in sent if message["content"] != SYNTHETIC]
        assert in_groups(said) == in_groups([*spoken(step.kept), *step.new])
        kept = [message for message in spoken(step.kept) if message["role"] == "assistant"]
        assert [message for message in said if message["role"] == "assistant"][: len(kept)] == kept
        check_valid(sent)

    async def check_store(self) -> None:
        """Every line as it should be, nothing else."""
        found = await sessions.find(self.svc.db, Scope(1), self.name)
        if found is None:
            assert not self.talk.lines
            return
        stored = await lines_of(self.svc, found[0].id)
        assert {n: in_groups(line) for n, line in stored.items()} == {
            n: in_groups(spoken(line)) for n, line in self.talk.lines.items()
        }
        rows = await self.svc.db.all("SELECT turn FROM turns WHERE session = ? ORDER BY turn", (found[0].id,))
        assert [row[0] for row in rows] == list(range(1, self.talk.turns + 1))
        assert (found[0].turns, found[0].branch, found[0].branches) == (
            self.talk.turns,
            self.talk.current,
            len(self.talk.lines),
        )


def check_valid(sent: Sequence[Message]) -> None:
    """Upstreams take it: after calls come all their results, and no others anywhere."""
    owed: list[str] = []
    for message in sent:
        if message["role"] == "tool":
            owed.remove(message["tool_call_id"])
            continue
        assert not owed
        owed = [call["id"] for call in message.get("tool_calls") or ()]
    assert not owed


async def lines_of(svc: Services, session: int) -> dict[int, list[Message]]:
    """Each branch's whole line, read row by row."""
    branches = {n: (parent, at) for n, parent, at in await svc.db.all(
        "SELECT branch, parent, forked_at FROM branches WHERE session = ? ORDER BY branch", (session,))}  # fmt: skip
    own: dict[int, list[Any]] = {n: [] for n in branches}
    for branch, seq, tokens, total, raw in await svc.db.all(
        "SELECT branch, seq, tokens, total, raw FROM entries WHERE session = ? ORDER BY branch, seq", (session,)
    ):
        own[branch].append((seq, tokens, total, json.loads(raw)))
    rows: dict[int, list[Any]] = {}
    for n, (parent, at) in branches.items():
        rows[n] = [*(rows[parent][:at] if parent is not None else ()), *own[n]]
        assert [row[0] for row in rows[n]] == list(range(1, len(rows[n]) + 1))
        assert all(row[2] == before[2] + row[1] for before, row in zip([(0, 0, 0), *rows[n]], rows[n], strict=False))
    return {n: [row[3] for row in line] for n, line in rows.items()}


async def play(folder: Path, sequences: int) -> None:
    """Sequences of requests with texts of their own: the line is what the client believes it is."""
    seed = random.randrange(2**32)
    model = Model()
    async with services(folder, model) as svc:
        for n in range(seed, seed + sequences):
            talk = Conversation(random.Random(n), noise=True)
            table = Table(svc, model, talk, f"s{n}")
            for _ in range(talk.random.randint(2, 10)):
                step = talk.step()
                try:
                    await table.turn(step)
                except Exception as exc:
                    raise AssertionError(f"seed {n}: {step}") from exc
                if step.repeats:
                    break
            await table.check_store()


async def play_repeating(folder: Path, sequences: int) -> None:
    """The same with the few texts that everybody says: nothing is removed, and the newest message goes up last."""
    seed = random.randrange(2**32)
    model = Model()
    async with services(folder, model) as svc:
        for n in range(seed, seed + sequences):
            talk = Conversation(random.Random(n), unique=False)
            for _ in range(talk.random.randint(2, 10)):
                await _one_repeating(svc, model, talk, f"s{n}")


async def _one_repeating(svc: Services, model: Model, talk: Conversation, name: str) -> None:
    step = talk.step()
    certain = step.shape in ("delta", "several", "append") or step.mode == "resend"
    certain |= step.shape == "full" and step.number == talk.current
    model.says = reply = talk.reply()
    begin = await begun(svc, Ask(step.sent, name, step.mode))
    sent = [message for message in model.requests[-1]["messages"] if message["content"] != SYNTHETIC]
    check_valid(model.requests[-1]["messages"])
    assert plain(sent[-1]) == plain(step.sent[-1]), (name, step)
    if certain:
        assert in_groups(sent) == in_groups([*spoken(step.kept), *step.new]), (name, step)
    stored = await lines_of(svc, (await _found(svc, name)).id)
    for number, line in talk.lines.items():
        assert stored[number][: len(line)] == spoken(line), (name, step)
    assert stored[begin.branch][-1] == reply
    talk.lines[begin.branch] = [Held(value, 0) for value in stored[begin.branch]]
    talk.current = begin.branch


async def _found(svc: Services, name: str) -> Any:
    found = await sessions.find(svc.db, Scope(1), name)
    assert found is not None
    return found[0]


async def test_every_kind_of_client_is_answered_from_the_line_it_believes_in(tmp_path: Path) -> None:
    await play(tmp_path, 400)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_ten_thousand_sequences_of_every_kind_of_client(tmp_path: Path) -> None:
    await play(tmp_path, 10_000)


async def test_repeated_texts_remove_nothing(tmp_path: Path) -> None:
    await play_repeating(tmp_path, 250)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_ten_thousand_sequences_of_repeated_texts(tmp_path: Path) -> None:
    await play_repeating(tmp_path, 10_000)


# --- what random clients showed first ---


def calls(*ids: str, name: str = "look") -> Message:
    made = [{"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(id: str, text: str) -> Message:
    return {"role": "tool", "tool_call_id": id, "content": text}


async def hold(svc: Services, model: Model, *turns: tuple[list[Message], Message]) -> list[int]:
    """Turns of one session as (sent, reply); the branches they ran on."""
    branches = []
    for sent, reply in turns:
        model.says = reply
        branches.append((await begun(svc, Ask(sent))).branch)
    return branches


async def test_a_result_that_another_tool_gave_before_continues_after_its_own_call(tmp_path: Path) -> None:
    model = Model()
    async with services(tmp_path, model) as svc:
        first = (([user("one")], calls("c1")), ([result("c1", "ok")], says("done")))
        again = (([user("two")], calls("c2")), ([result("c2", "ok")], says("done")))
        assert await hold(svc, model, *first, *again) == [1, 1, 1, 1]
    asked = model.requests[-1]["messages"]
    assert [message.get("tool_call_id", message["content"]) for message in asked] == [
        "one", None, "c1", "done", "two", None, "c2",
    ]  # fmt: skip


async def test_one_of_two_results_that_was_given_before_starts_no_branch(tmp_path: Path) -> None:
    model = Model()
    async with services(tmp_path, model) as svc:
        first = (([user("one")], calls("c1", "c2")), ([result("c1", "cloudy"), result("c2", "ok")], says("done")))
        again = (([user("two")], calls("c3", "c4")), ([result("c3", "sunny"), result("c4", "ok")], says("done")))
        assert await hold(svc, model, *first, *again) == [1, 1, 1, 1]
    assert [message["role"] for message in model.requests[-1]["messages"][-4:]] == ["user", "assistant", "tool", "tool"]
    assert len(model.requests[-1]["messages"]) == 9


async def test_results_may_come_in_any_order(tmp_path: Path) -> None:
    model = Model()
    async with services(tmp_path, model) as svc:
        both = calls("c1", "c2")
        await hold(svc, model, ([user("one")], both), ([result("c2", "B"), result("c1", "A")], says("done")))
        resent = [user("one"), both, result("c1", "A"), result("c2", "B"), says("done"), user("two")]
        assert await hold(svc, model, (resent, says("fine"))) == [1]


async def test_a_result_answers_the_call_of_its_own_branch(tmp_path: Path) -> None:
    """The same call was made on another branch, under another id."""
    model = Model()
    async with services(tmp_path, model) as svc:
        head = [user("zero"), says("hm")]
        await hold(svc, model, ([user("zero")], says("hm")), ([user("one")], calls("c1")))
        await hold(svc, model, ([*head, user("one, please")], calls("c2")))
        await hold(svc, model, ([*head, user("one"), calls("c1"), result("c1", "42")], says("done")))
    assert model.requests[-1]["messages"][-1] == result("c1", "42")


@pytest.mark.parametrize("sent", [[result("nobody", "42")], [user("hm"), result("nobody", "42")]])
async def test_a_result_of_a_call_that_nobody_made_is_refused(tmp_path: Path, sent: list[Message]) -> None:
    model = Model()
    async with services(tmp_path, model) as svc:
        await hold(svc, model, ([user("one")], calls("c1")))
        with pytest.raises(BadRequest, match="nobody") as caught:
            await run(svc, Ask(sent))
    assert caught.value.param == f"messages[{len(sent) - 1}].tool_call_id"


async def test_results_of_the_last_stored_calls_need_no_call_beside_them(tmp_path: Path) -> None:
    model = Model()
    async with services(tmp_path, model) as svc:
        await hold(svc, model, ([user("one")], calls("c1")), ([user("never mind")], says("fine")))
        await hold(svc, model, ([result("c1", "late")], says("thanks")))
    assert len(model.requests) == 3


async def test_what_the_echo_of_an_answer_lost_goes_up_as_the_model_wrote_it(tmp_path: Path) -> None:
    model = Model()
    async with services(tmp_path, model) as svc:
        wrote = says("42") | {"reasoning_content": "hm", "x_signature": "abc"}
        await hold(svc, model, ([user("one")], wrote), ([user("two")], says("fine")))
        edited = [user("one"), says("42"), user("two, please")]
        assert await hold(svc, model, (edited, says("fine"))) == [2]
        assert model.requests[-1]["messages"][1] == wrote
        moved = [user("zero"), says("42"), user("two, please")]
        assert await hold(svc, model, (moved, says("fine"))) == [3]
    assert model.requests[-1]["messages"][1] == wrote
