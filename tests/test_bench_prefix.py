"""The replay of `bench prefix` counts what it says it counts."""

import argparse
import json
from pathlib import Path

import pytest

from bench import dialogues, options
from bench.cases.prefix import Reuse, Setting, replayed
from bench.process import Failed

pytestmark = pytest.mark.anyio


def body(*texts: str) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text} for text in texts]}).encode()


def of_bytes(text: str) -> list[int]:
    return list(text.encode())


def test_whole_blocks_of_the_common_beginning_count() -> None:
    reuse = Reuse(lambda raw: list(raw))
    first, longer, other = body("a" * 100), body("a" * 100, "b" * 50), body("a" * 40, "b" * 50)
    message = len(json.dumps({"role": "user", "content": "a" * 100}))
    reuse.take(first)
    assert (reuse.sent, reuse.reused) == (message, 0)
    reuse.take(longer)
    assert reuse.reused == message // 16 * 16
    before = reuse.reused
    reuse.take(other)
    same = len('{"role": "user", "content": "') + 40
    assert reuse.reused - before == same // 16 * 16
    reuse.begin()
    reuse.take(other)
    assert reuse.reused - before == same // 16 * 16, "another session begins anew"
    assert reuse.requests == 4


def test_a_message_that_differs_ends_the_beginning_though_later_ones_are_the_same() -> None:
    reuse = Reuse(lambda raw: list(raw))
    reuse.take(body("x" * 64, "y" * 640))
    reuse.take(body("z" * 64, "y" * 640))
    assert reuse.reused <= 32


async def test_a_replay_sends_every_question_with_the_history_that_fits() -> None:
    talk = dialogues.generated(1, 60)[0]
    setting = Setting("recall off", "recall: {enabled: false}\ncontext: {overflow: truncate}\n", ())
    reuse = await replayed([talk], 40_000, setting, of_bytes)
    assert reuse.requests == 30
    assert reuse.share > 0.8
    small = await replayed([talk], 4_000, setting, of_bytes)
    assert small.requests == 30
    assert small.share < reuse.share


def test_generated_dialogues_are_the_same_every_time_and_long() -> None:
    made = dialogues.generated(2, 300)
    assert made == dialogues.generated(2, 300)
    assert made[0] != made[1]
    assert all(len(talk) == 300 and all(talk) for talk in made)


def test_a_locomo_file_is_read_in_the_order_of_its_sessions(tmp_path: Path) -> None:
    said = {"speaker": "Ada", "dia_id": "D1:1", "text": "Look!", "blip_caption": "a red boat"}
    conversation = {f"session_{n}": [{**said, "text": f"Look {n}!"}] for n in (10, 2, 1)}
    dates = {f"session_{n}_date_time": f"May {n}" for n in (10, 2, 1)}
    file = tmp_path / "talks.json"
    file.write_text(json.dumps([{"sample_id": "a", "conversation": {"speaker_a": "Ada", **conversation, **dates}}]))
    assert dialogues.locomo(file) == [[f"[May {n}] Ada: Look {n}! [image: a red boat]" for n in (1, 2, 10)]]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"conversation": {"session_1": []}}]'])
def test_another_file_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "talks.json"
    file.write_text(text)
    with pytest.raises(Failed, match="no LoCoMo file"):
        dialogues.locomo(file)


def test_the_file_comes_by_the_option_and_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(*words: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        options.add(parser)
        return parser.parse_args(words)

    monkeypatch.delenv("BENCH_LOCOMO", raising=False)
    assert parsed().locomo is None
    assert "--locomo" not in options.argv(parsed())
    assert options.argv(parsed("--locomo", "/a.json"))[-1] == "/a.json"
    monkeypatch.setenv("BENCH_LOCOMO", "/b.json")
    assert parsed().locomo == Path("/b.json")
