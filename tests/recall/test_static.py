"""The local embedder, with the table of the wheel: what it makes of texts, and what it leaves alone."""

import importlib.util
import math
import sys
from pathlib import Path

import anyio
import pytest

if importlib.util.find_spec("wordllama") is None:
    pytest.skip("there is no wheel of wordllama for this machine", allow_module_level=True)

from proxy.recall import static
from proxy.recall.embed import Vector

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
ODD = ["\0", "\x01\t\n", "�", "😀" * 9, "<s> </s> <unk>", "ünïcode", "中文", "a" * 5_000, " "]


@pytest.fixture(scope="module")
def table() -> static.Static:
    return static.load()


def cosine(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_what_belongs_together_is_near(table: static.Static) -> None:
    question, shipping, tea = table.vectors(
        ["Do you deliver to France?", "We ship orders to all of Europe.", "Green tea is steeped for three minutes."]
    )
    assert cosine(question, shipping) > cosine(question, tea) + 0.1


def test_each_vector_has_256_numbers_and_the_length_1(table: static.Static) -> None:
    vectors = table.vectors(ODD)
    assert {len(vector) for vector in vectors} == {table.dimensions} == {256}
    assert all(type(part) is float for part in vectors[0])
    assert all(math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-5) for vector in vectors)


def test_a_text_s_vector_does_not_depend_on_its_neighbours(table: static.Static) -> None:
    texts = [*ODD, "A short one.", "word " * 3_000]
    assert table.vectors(texts) == [table.vectors([text])[0] for text in texts]
    assert table.vectors([]) == []


def test_a_text_without_a_word_has_no_direction(table: static.Static) -> None:
    assert table.vectors([""]) == [[0.0] * 256]


ALONE = """
import asyncio, logging, sys, threading

def heard(event, args):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "subprocess", "os.exec", "os.fork")):
        raise RuntimeError(event)

sys.addaudithook(heard)
from proxy import app, config
from proxy.types import Scope

embedder = app.embedder_of(config.Config(), {})
before = set(sys.modules)
assert embedder.describe().dimensions is None
print(asyncio.run(embedder.ready(Scope(1))))
assert {"numpy", "tokenizers", "safetensors"} & before == set()
assert {"wordllama", "requests", "huggingface_hub", "pydantic"} & set(sys.modules) == set()
assert logging.getLogger().handlers == [] and logging.getLogger().level == logging.WARNING
"""
WITHOUT = """
import asyncio, sys

sys.modules[sys.argv[1]] = None
from proxy import app, config
from proxy.errors import NotConfigured
from proxy.types import Scope

try:
    asyncio.run(app.embedder_of(config.Config(), {}).ready(Scope(1)))
except NotConfigured as failure:
    print(failure.status, failure.message)
"""
SAME = """
import sys
from pathlib import Path
import wordllama
from proxy.recall import static

texts = ["hello world, how are you?", "中文 and more", "word " * 50, "A\\n\\nB"]
theirs = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
for text, ours in zip(texts, static.load().vectors(texts), strict=True):
    assert abs(theirs.embed([text], norm=True)[0] - ours).max() < 1e-5, text
print("the same")
"""


async def alone(code: str, *args: str) -> str:
    """What a program says that runs in a process of its own, where a warning is an error."""
    with anyio.fail_after(60):
        done = await anyio.run_process([sys.executable, "-W", "error", "-c", code, *args], cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


async def test_it_is_loaded_late_without_a_warning_and_without_a_network() -> None:
    assert await alone(ALONE) == "About(kind='local', model='wordllama/l2_supercat_256', dimensions=256)"


@pytest.mark.parametrize("package", ["wordllama", "tokenizers"])
async def test_without_one_of_its_packages_it_says_what_to_install(package: str) -> None:
    said = await alone(WITHOUT, package)
    assert said.startswith(f"501 the local embedder cannot be loaded (the package {package} is missing)")
    assert 'pip install "session-proxy[embeddings]"' in said and "recall.embedder.kind" in said


async def test_its_vectors_are_those_that_wordllama_makes() -> None:
    assert await alone(SAME) == "the same"
