"""Fixtures around a real Redis server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_groups import (
    ClusterGroup,
    SentinelGroup,
    cluster_group,
    sentinel_group,
)
from tests.support.redis_server import RedisServer

_URLS = {"redis": "redis_url", "sentinel": "sentinel_url", "cluster": "cluster_url"}


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis server of the session; tests that stop or freeze one use `own_redis_server`."""
    yield from _serving(tmp_path_factory.mktemp("redis"), persistent=True)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of the session's Redis server, emptied for this test."""
    redis_server.command("FLUSHALL")
    return redis_server.url


@pytest.fixture(scope="session")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    """A master with a replica and three Sentinels, of the session."""
    with sentinel_group(tmp_path_factory.mktemp("sentinels")) as group:
        yield group


@pytest.fixture(scope="session")
def cluster_of_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterGroup]:
    """A Cluster of three masters and their replicas, of the session."""
    with cluster_group(tmp_path_factory.mktemp("cluster")) as group:
        yield group


@pytest.fixture(params=["memory", "redis", "sentinel", "cluster"])
def store_url(request: pytest.FixtureRequest) -> str | None:
    """URL of a store of each kind, emptied for this test; None for the memory of a process."""
    if request.param == "memory":
        return None
    return str(request.getfixturevalue(_URLS[request.param]))


@pytest.fixture
def sentinel_url(sentinels: SentinelGroup) -> str:
    """URL of the session's Sentinels; their master is emptied for this test."""
    sentinels.servers[0].command("FLUSHALL")
    return sentinels.url


@pytest.fixture
def cluster_url(cluster_of_redis: ClusterGroup) -> str:
    """URL of the session's Cluster; its masters are emptied for this test."""
    for master in cluster_of_redis.servers[:3]:
        master.command("FLUSHALL")
    return cluster_of_redis.url


@pytest.fixture
def own_redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server that this test may stop, kill, freeze and start again."""
    yield from _serving(tmp_path)


@pytest.fixture
def guarded_redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server that wants the password "correct-horse"."""
    yield from _serving(tmp_path, password="correct-horse")


def _serving(
    directory: Path, *, password: str = "", persistent: bool = False
) -> Iterator[RedisServer]:
    server = RedisServer(directory, password=password, persistent=persistent)
    server.start()
    try:
        yield server
    finally:
        server.stop()
