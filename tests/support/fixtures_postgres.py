"""Fixtures around a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL server of the session; tests that stop one use `own_postgres_server`."""
    yield from _serving()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """URL of an empty database of the session's server."""
    return postgres_server.emptied_database()


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for one test, which may end it."""
    yield from _serving()


def _serving() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()
