"""Long dialogues to replay: those of a LoCoMo file where one is given, else generated ones of the same shape.

LoCoMo's licence forbids to keep it here, so its file comes by an option. A dialogue is a list of utterances; the first
is the user's, the second the assistant's, and so on. Each is written as `[date] Speaker: text [image: caption]`.
"""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

from bench.process import Failed

SEASONS = ("spring", "summer", "autumn", "winter")
PEOPLE = (
    "Ada", "Bruno", "Carla", "Dmitri", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kaya", "Lena", "Marek",
    "Nadia", "Oskar", "Priya", "Quentin", "Rosa", "Samir", "Tilda", "Umut", "Vera", "Wanda", "Yusuf", "Zoe",
)  # fmt: skip
PLACES = (
    "in Lisbon", "at the harbour", "on Aunt Mo's farm", "in the old cinema", "in Tromso", "at the flea market",
    "in the climbing hall", "behind the library", "on the night train", "in the attic", "at the lighthouse", "in Porto",
    "by the canal", "on the roof", "in the school yard", "at the quarry", "in the greenhouse", "near the chapel",
    "in Gdansk", "under the bridge", "at the boat yard", "in the bakery", "on the island", "at the border",
)  # fmt: skip
THINGS = (
    "violin", "sourdough starter", "kayak", "telescope", "vegetable bed", "grey kitten", "racing bike", "kiln", "drum",
    "beehive", "tent", "sewing machine", "oak table", "accordion", "sledge", "camera", "aquarium", "printing press",
    "hammock", "chess set", "parrot", "motorbike", "loom", "globe", "wheelbarrow", "trumpet", "radio", "quilt",
    "typewriter", "canoe", "lantern", "puppet theatre", "dinghy", "weather station", "pottery wheel", "map collection",
)  # fmt: skip
DEEDS = (
    "bought", "lost", "repaired", "painted", "sold", "borrowed", "gave away", "wrote a song about", "insured", "found",
    "dismantled", "photographed", "inherited", "hid", "auctioned", "polished",
)  # fmt: skip
DOINGS = (
    "baked", "carried", "cleaned", "counted", "cut", "drew", "dried", "emptied", "fed", "folded", "froze", "heated",
    "hung up", "knitted", "mended", "mixed", "moved", "ordered", "packed", "peeled", "planted", "poured", "pulled out",
    "raked", "rinsed", "roasted", "sewed", "shook", "sorted", "split", "stirred", "swept", "tested", "tied", "trimmed",
    "unpacked", "warmed", "washed", "watered", "wrapped",
)  # fmt: skip
KINDS = (
    "ancient", "bitter", "blue", "broken", "cheap", "cold", "crooked", "dark", "dusty", "empty", "frozen", "green",
    "heavy", "huge", "lonely", "loud", "narrow", "odd", "patient", "pale", "purple", "quiet", "round", "rusty", "shiny",
    "silver", "slow", "soft", "sour", "spare", "steep", "sticky", "striped", "thin", "tiny", "warm", "wide", "yellow",
)  # fmt: skip
STUFF = (
    "apples", "barrels", "beans", "blankets", "bottles", "boxes", "bricks", "brooms", "buttons", "candles", "carpets",
    "chairs", "cherries", "coats", "cushions", "doors", "feathers", "fences", "flags", "gloves", "hats", "herbs",
    "jars", "kettles", "keys", "knives", "ladders", "leaves", "lemons", "letters", "mirrors", "mushrooms", "nails",
    "nets", "onions", "ovens", "pears", "pies", "pipes", "plates", "plums", "ropes", "sacks", "scarves", "shelves",
    "shoes", "spoons", "stamps", "stones", "tiles", "tools", "towels", "tulips", "walnuts", "wheels", "wires",
)  # fmt: skip
TIMES = ("today", "yesterday", "before lunch", "all evening", "at dawn", "last Friday", "for hours", "in the rain")


def locomo(file: Path) -> list[list[str]]:
    """The dialogues of a file in LoCoMo's format."""
    try:
        return [_utterances(sample["conversation"]) for sample in json.loads(file.read_text()) or [{}]]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise Failed(f"{file} is no LoCoMo file that can be read: {exc!r}") from exc


def _utterances(conversation: dict[str, Any]) -> list[str]:
    numbers = sorted(int(key[8:]) for key in conversation if re.fullmatch(r"session_\d+", key))
    out = []
    for number in numbers:
        date = conversation[f"session_{number}_date_time"]
        for said in conversation[f"session_{number}"]:
            image = f" [image: {said['blip_caption']}]" if said.get("blip_caption") else ""
            out.append(f"[{date}] {said['speaker']}: {said['text']}{image}")
    return out


def generated(count: int, utterances: int) -> list[list[str]]:
    """Dialogues of small talk and news, in which now and then something from long ago is asked about; the same ones
    every time."""
    return [_generated(Random(number), utterances) for number in range(count)]


def _generated(draw: Random, utterances: int) -> list[str]:
    speakers = draw.sample(PEOPLE, 2)
    told: list[str] = []
    out = []
    for n in range(utterances):
        date = f"{1 + n // 20 % 28} {SEASONS[n // 140 % 4]} {2020 + n // 560}"
        text = " ".join(small_talk(draw) for _ in range(draw.choice((1, 2, 3))))
        kind = draw.random()
        if kind < 0.3:
            about = f"the {draw.choice(THINGS)} {draw.choice(PLACES)}"
            text = f"{draw.choice(PEOPLE)} {draw.choice(DEEDS)} {about}. {text}"
            told.append(about)
        elif told and kind < 0.38:
            text = f"{text} Do you remember who had {draw.choice(told)}, and what became of it?"
        out.append(f"[{date}] {speakers[n % 2]}: {text}")
    return out


def small_talk(draw: Random) -> str:
    """A sentence that is hardly ever said twice."""
    things = f"{draw.choice(KINDS)} {draw.choice(STUFF)} and {draw.choice(KINDS)} {draw.choice(STUFF)}"
    return f"I {draw.choice(DOINGS)} {things} {draw.choice(TIMES)}."
