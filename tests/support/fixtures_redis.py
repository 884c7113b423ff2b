"""Fixtures around a real Redis server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis server of the session; tests that stop or freeze one use `own_redis_server`."""
    yield from _serving(tmp_path_factory.mktemp("redis"))


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of the session's Redis server, emptied for this test."""
    redis_server.command("FLUSHALL")
    return redis_server.url


@pytest.fixture
def own_redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server that this test may stop, kill, freeze and start again."""
    yield from _serving(tmp_path)


@pytest.fixture
def guarded_redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server that wants the password "correct-horse"."""
    yield from _serving(tmp_path, password="correct-horse")


def _serving(directory: Path, *, password: str = "") -> Iterator[RedisServer]:
    server = RedisServer(directory, password=password)
    server.start()
    try:
        yield server
    finally:
        server.stop()
