"""session-proxy migrate: brings the store's schema up to date. Needs the file for itself."""

import argparse
import os

from proxy.cli import settings
from proxy.store import sqlite


def add(parser: argparse.ArgumentParser) -> None:
    settings.add(parser)


def run(args: argparse.Namespace) -> int:
    config = settings.load(args.config)
    path = sqlite.file_of(config.storage.url)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = sqlite.owned(path)
    try:
        version = sqlite.migrate(path)
    finally:
        os.close(lock)
    print(f"{config.storage.url} has schema {version}")
    return 0
