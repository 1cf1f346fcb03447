"""--config FILE, the same for every command."""

import argparse
from pathlib import Path

from proxy import config
from proxy.config import Config
from proxy.errors import BadConfig

DEFAULT = Path("config.yaml")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="configuration file (default: ./config.yaml if there is one)")


def load(path: Path | None) -> Config:
    """The configuration of a file, else of ./config.yaml, else the defaults. Raises BadConfig."""
    if path is None and not DEFAULT.exists():
        return config.load("")
    file = path or DEFAULT
    return parsed(read(file), file)


def read(file: Path) -> str:
    """What a file holds. Raises BadConfig."""
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise BadConfig(f"the configuration file {file} cannot be read: {exc}") from exc


def parsed(text: str, file: Path) -> Config:
    """The configuration that `text` describes. Raises BadConfig, which names the file."""
    try:
        return config.load(text)
    except BadConfig as exc:
        raise BadConfig(f"{file}: {exc}") from exc
