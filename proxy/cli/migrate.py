"""session-proxy migrate: brings the store's schema up to date. Needs the file for itself."""

import argparse

from proxy.cli import settings
from proxy.store import sqlite


def add(parser: argparse.ArgumentParser) -> None:
    settings.add(parser)


def run(args: argparse.Namespace) -> int:
    config = settings.load(args.config)
    version = sqlite.migrated(config.storage.url)
    print(f"{config.storage.url} has schema {version}")
    return 0
