"""What is particular to the Redis store: many processes; a server that is slow, gone or strange."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import pickle
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
import uvloop

from ra_gateway.errors import StaleTransaction, StoreUnavailable, TooManyTransactions
from ra_gateway.ra.transaction import Event, Transaction, advance
from ra_gateway.stores.redis import RedisStore
from tests.support.patience import PATIENCE_SECONDS
from tests.support.redis_server import SEAL_KEY, RedisServer
from tests.support.transactions import new_transaction, system_clock

RIVAL = """
import asyncio, base64, pickle, sys
from tests.support.transactions import system_clock, winners
from tests.support.redis_server import SEAL_KEY
from ra_gateway.stores.redis import RedisStore

async def main(url):
    store = RedisStore(url, clock=system_clock, seal_keys=[SEAL_KEY], max_per_signer=1000)
    await store.ping()
    print("ready", flush=True)
    won = await winners(store, pickle.loads(base64.b64decode(sys.stdin.readline())))
    await store.close()
    print(*[transaction.key.transaction_id.hex() for transaction in won], flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    async with opened(redis_url) as store:
        yield store


@contextlib.asynccontextmanager
async def opened(
    url: str, *, timeout_seconds: float = 20.0, max_connections: int = 64
) -> AsyncIterator[RedisStore]:
    store = RedisStore(
        url,
        clock=system_clock,
        seal_keys=[SEAL_KEY],
        timeout_seconds=timeout_seconds,
        max_connections=max_connections,
    )
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def frozen(own_redis_server: RedisServer) -> Iterator[RedisServer]:
    own_redis_server.pause()
    yield own_redis_server
    own_redis_server.resume()


@pytest.mark.requirement(94)
async def test_of_two_processes_exactly_one_creates(redis_url: str) -> None:
    """Two processes race for the same keys: every key has one winner, none has two."""
    ids = [number.to_bytes(16, "big") for number in range(200)]

    def rivals(name: str) -> bytes:
        made = pickle.dumps([new_transaction(each, endpoint=name) for each in ids])
        return base64.b64encode(made) + b"\n"

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", RIVAL, redis_url,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip

    processes = await asyncio.gather(start(), start())
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    ends = await asyncio.gather(
        *(
            process.communicate(rivals(name))
            for process, name in zip(processes, ("left", "right"), strict=True)
        )
    )
    left, right = (output.decode().split() for output, _ in ends)
    assert sorted(left + right) == [each.hex() for each in ids]


async def test_what_was_seen_is_let_go_when_its_time_is_over(redis_url: str) -> None:
    """A node that serves on does not remember for each transaction of its life which version was there."""
    moment = 0.0
    store = RedisStore(
        redis_url, clock=system_clock, seal_keys=[SEAL_KEY], monotonic=lambda: moment
    )
    for number in range(20):
        await store.create(new_transaction(number.to_bytes(16, "big")))
    assert len(store._seen) == 20
    moment += 2 * 3600
    for number in range(20, 40):
        await store.create(new_transaction(number.to_bytes(16, "big")))
    assert len(store._seen) == 20
    await store.close()


async def test_a_record_and_its_index_share_a_hash_tag(
    store: RedisStore, redis_server: RedisServer
) -> None:
    """The hash holds the version and the sealed record and no more."""
    transaction = new_transaction(b"\x01\x02")
    await store.create(transaction)
    index = "ra:{0102}"
    key = f"{index}:acme-radio:{1:064x}"
    assert redis_server.command(f"HLEN {key}") == b":2\r\n"
    assert redis_server.command(f"HGET {key} version") == b"$1\r\n0\r\n"
    assert redis_server.command(f"SISMEMBER {index} {key}") == b":1\r\n"
    for name in (key, index):
        lifetime_ms = int(redis_server.command(f"PTTL {name}")[1:])
        assert 299_000 < lifetime_ms <= 300_000


async def test_a_transaction_of_another_schema_is_refused_with_its_reason(
    store: RedisStore, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another release stored is not guessed at: systemUnavail, and the log says why."""
    transaction = new_transaction(b"\x01")
    with monkeypatch.context() as other_release:
        other_release.setattr("ra_gateway.ra.transaction.SCHEMA", 1)
        await store.create(transaction)
    for ask in (store.load(transaction.key), store.create(transaction), store.find(b"\x01")):
        with pytest.raises(StoreUnavailable, match="schema 1, expected"):
            await ask


@pytest.mark.requirement(95)
async def test_a_redis_that_is_gone_is_reported_and_found_again(
    own_redis_server: RedisServer,
) -> None:
    """Every method fails soon while Redis is down, and works as soon as it is back."""
    transaction = new_transaction()
    async with opened(own_redis_server.url) as store:
        await store.create(transaction)
        own_redis_server.kill()
        for ask in (
            store.load(transaction.key),
            store.create(transaction),
            store.replace(advance(transaction, Event.issued)),
            store.find(b""),
            store.wait(transaction.key, version=0, timeout_seconds=60),
            store.ping(),
        ):
            started = time.monotonic()
            with pytest.raises(StoreUnavailable, match=f"redis 127.0.0.1:{own_redis_server.port}"):
                await ask
            assert time.monotonic() - started < 50  # and not the 60 s that `wait` was given
        own_redis_server.start()
        assert await store.load(transaction.key) is None
        fresh = new_transaction(b"fresh")
        assert await store.create(fresh) is None
        assert await store.load(fresh.key) == fresh


async def test_a_restart_between_two_calls_goes_unnoticed(own_redis_server: RedisServer) -> None:
    """An idle connection that ended is replaced, and forgotten scripts are sent again."""
    async with opened(own_redis_server.url) as store:
        await store.create(new_transaction(b"1"))
        own_redis_server.stop()
        own_redis_server.start()
        assert await store.create(new_transaction(b"2")) is None
        assert await store.find(b"2") != []


@pytest.mark.requirement(95)
async def test_a_redis_that_hangs_is_given_up_in_time(frozen: RedisServer) -> None:
    """A connection that is accepted and never answered costs the timeout, not more."""
    async with opened(frozen.url, timeout_seconds=0.2) as store:
        started = time.monotonic()
        results = await asyncio.gather(
            *(store.create(new_transaction(signer=n)) for n in range(20)), return_exceptions=True
        )
        assert [type(result) for result in results] == [StoreUnavailable] * 20
        assert "no answer within 0.2 seconds" in str(results[0])
        assert (
            time.monotonic() - started < 20 * 0.2 + 60
        )  # on any machine; each for itself, not in a row


async def test_a_redis_that_hung_is_used_again(own_redis_server: RedisServer) -> None:
    """After a pause in the middle of the work the store goes on, on a new connection."""
    transaction = new_transaction()
    async with opened(own_redis_server.url, timeout_seconds=0.2) as store:
        await store.create(transaction)
        own_redis_server.pause()
        with pytest.raises(StoreUnavailable):
            await store.load(transaction.key)
        own_redis_server.resume()
        assert await store.load(transaction.key) == transaction


@pytest.mark.requirement(95)
async def test_nobody_gets_the_answer_of_one_who_left(own_redis_server: RedisServer) -> None:
    """Who is cancelled leaves an answer behind; whoever asks next, before or after it comes, gets its own."""
    first, second = (
        new_transaction(name, signer=number) for number, name in enumerate((b"1", b"2"))
    )
    async with opened(own_redis_server.url) as store:
        for transaction in (first, second):
            await store.create(transaction)
            assert await store.load(transaction.key) == transaction  # the script is known there now
        own_redis_server.pause()
        left = asyncio.create_task(store.load(first.key))
        for _ in range(50):  # it has been sent; where not, there is nothing to mix up
            await asyncio.sleep(0.001)
        left.cancel()
        await asyncio.wait((left,))
        asking = [asyncio.create_task(store.load(second.key)) for _ in range(3)]
        for _ in range(50):
            await asyncio.sleep(0.001)
        own_redis_server.resume()
        assert await asyncio.gather(*asking) == [second] * 3
        assert await store.load(first.key) == first


async def test_connections_that_the_server_ended_are_replaced(
    store: RedisStore, redis_server: RedisServer
) -> None:
    """All at once, and before this process has heard of any: each call gets its own answer."""
    mine = [new_transaction(signer=number) for number in range(10)]
    await asyncio.gather(*(store.create(each) for each in mine))
    for _ in range(5):
        assert redis_server.command("CLIENT KILL TYPE normal SKIPME yes").startswith(b":")
        assert await asyncio.gather(*(store.load(each.key) for each in mine)) == mine


@pytest.mark.parametrize("octets", [1, 100, 1_000_000])
async def test_an_answer_that_comes_in_pieces_is_one(store: RedisStore, octets: int) -> None:
    """A record has more octets than one read from a socket gives."""
    transaction = new_transaction(signer_der=os.urandom(octets))
    await store.create(transaction)
    assert (
        await asyncio.gather(*(store.load(transaction.key) for _ in range(3))) == [transaction] * 3
    )


async def test_a_password_is_used_and_never_told(guarded_redis_server: RedisServer) -> None:
    """Logging in works by URL and by argument; no error text contains the password."""
    port = guarded_redis_server.port
    async with opened(guarded_redis_server.url) as by_url:
        await by_url.ping()
    bare = f"redis://127.0.0.1:{port}/0"
    by_argument = RedisStore(
        bare, clock=system_clock, seal_keys=[SEAL_KEY], password="correct-horse"
    )
    await by_argument.ping()
    await by_argument.close()
    for url in (bare, f"redis://:battery-staple@127.0.0.1:{port}/0"):
        async with opened(url) as refused:
            with pytest.raises(StoreUnavailable, match=f"redis 127.0.0.1:{port}/0") as caught:
                await refused.ping()
        assert "battery" not in str(caught.value)
    guarded_redis_server.kill()
    async with opened(guarded_redis_server.url) as down:
        with pytest.raises(StoreUnavailable) as caught:
            await down.ping()
    assert "correct-horse" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://x", "redis://:s3cret/@host", "redis://:s3cret@host/0?no_such_option=1"]
)
def test_a_url_that_cannot_be_used_is_refused_at_once_without_repeating_it(url: str) -> None:
    """A wrong URL is an error at start, and its password stays out of the text."""
    with pytest.raises(ValueError, match="not a Redis URL") as caught:
        RedisStore(url, clock=system_clock, seal_keys=[SEAL_KEY])
    assert "s3cret" not in str(caught.value)


async def test_a_prefix_with_braces_is_refused() -> None:
    """Braces in the prefix would take the place of the hash tag."""
    with pytest.raises(ValueError, match="braces"):
        RedisStore(
            "redis://localhost", clock=system_clock, seal_keys=[SEAL_KEY], key_prefix="ra{1}"
        )


async def test_prefixes_keep_installations_apart(redis_url: str, store: RedisStore) -> None:
    """Two gateways with different prefixes share a Redis without seeing each other."""
    transaction = new_transaction()
    await store.create(transaction)
    other = RedisStore(redis_url, clock=system_clock, seal_keys=[SEAL_KEY], key_prefix="lab")
    assert await other.load(transaction.key) is None
    assert await other.create(transaction) is None
    await other.close()


async def test_a_read_only_replica_does_not_pass_for_writable(
    store: RedisStore, redis_server: RedisServer
) -> None:
    """A replica answers PING, but the store's ping and create say what is wrong."""
    redis_server.command("REPLICAOF 127.0.0.1 1")
    try:
        for ask in (store.ping(), store.create(new_transaction())):
            with pytest.raises(StoreUnavailable, match="read only replica"):
                await ask
    finally:
        redis_server.command("REPLICAOF NO ONE")
    await store.ping()


async def test_a_closed_store_refuses(redis_url: str) -> None:
    """close ends the connection for good, and may be called again."""
    async with opened(redis_url) as store:
        await store.ping()
        await store.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.ping()


async def test_cancelled_calls_do_not_mix_up_replies(store: RedisStore) -> None:
    """Replies that nobody waits for any more do not reach the next caller."""
    mine = [new_transaction(signer=number) for number in range(30)]
    await asyncio.gather(*(store.create(transaction) for transaction in mine))
    tasks = [asyncio.create_task(store.load(transaction.key)) for transaction in mine]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for number, result in enumerate(results):
        if number % 3:
            assert result == mine[number]
        else:
            assert isinstance(result, asyncio.CancelledError)
    assert await store.load(mine[0].key) == mine[0]


async def test_more_calls_than_connections_take_turns(
    redis_url: str, redis_server: RedisServer
) -> None:
    """Calls wait for a connection; there are never more than `max_connections`."""
    mine = [new_transaction(signer=number) for number in range(40)]
    async with opened(redis_url, max_connections=2) as store:
        assert await asyncio.gather(*(store.create(each) for each in mine)) == [None] * 40
        assert _clients_become(redis_server, 2)


async def test_what_is_being_connected_when_the_store_is_closed_is_closed_too(
    redis_url: str, redis_server: RedisServer
) -> None:
    """No connection outlives the store, whenever it was closed."""
    store = RedisStore(redis_url, clock=system_clock, seal_keys=[SEAL_KEY])
    asking = asyncio.create_task(store.ping())
    await asyncio.sleep(0)
    await store.close()
    await asyncio.wait([asking])
    asking.exception()  # looked at: it may have been in time, or not
    assert _clients_become(redis_server, 0)


def _clients_become(server: RedisServer, count: int) -> bool:
    """Tell whether the server soon has so many clients, besides the one that asks."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while server.command("CLIENT LIST").count(b" addr=") - 1 != count:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Cutter:
    """A TCP relay to Redis that can lose a reply: with its connection, or in silence.

    Args:
        port: Where Redis listens; a change is for connections that are made afterwards.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.cut_next_reply = False
        self.cuts = 0
        self.drop_next_reply = False
        self._relays: set[asyncio.Task[None]] = set()
        self._clients: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def relaying(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        finally:
            server.close()
            for relay in self._relays:
                relay.cancel()
            await asyncio.gather(*self._relays, return_exceptions=True)

    def reset(self) -> None:
        """End all connections as a crashed host or a firewall does: with a TCP reset."""
        for writer in self._clients:
            at_once = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relays.add(asyncio.create_task(self._relay(reader, writer)))

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.append(writer)
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self.port)
        pumps = [
            asyncio.create_task(self._pump(reader, redis_writer, is_reply=False)),
            asyncio.create_task(self._pump(redis_reader, writer, is_reply=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            writer.close()
            redis_writer.close()  # before anything is waited for: it may be cancelled
            for each in (writer, redis_writer):
                with contextlib.suppress(OSError):
                    await each.wait_closed()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        while data := await source.read(65536):
            if is_reply and self.cut_next_reply:
                self.cut_next_reply = False
                self.cuts += 1
                return
            if is_reply and self.drop_next_reply:
                self.drop_next_reply = False
                continue
            sink.write(data)


@pytest.fixture
async def cutter(redis_server: RedisServer) -> Cutter:
    return Cutter(redis_server.port)


@pytest.fixture
async def cut_store(cutter: Cutter, redis_url: str) -> AsyncIterator[RedisStore]:
    async with cutter.relaying() as url, opened(url) as store:
        await store.create(new_transaction(b"warm"))
        await store.replace(advance(new_transaction(b"warm"), Event.issued))
        yield store


async def test_a_create_whose_reply_was_lost_has_won(
    cut_store: RedisStore, cutter: Cutter, store: RedisStore
) -> None:
    """The second attempt meets what the first one stored, and knows it for its own."""
    transaction = new_transaction()
    cutter.cut_next_reply = True
    assert await cut_store.create(transaction) is None
    assert cutter.cuts == 1
    assert await store.load(transaction.key) == transaction


async def test_a_create_whose_reply_was_lost_has_still_lost_to_another(
    cut_store: RedisStore, cutter: Cutter, store: RedisStore
) -> None:
    """The second attempt does not take another node's transaction for its own."""
    theirs, ours = new_transaction(), new_transaction(endpoint="ours")
    await store.create(theirs)
    cutter.cut_next_reply = True
    assert await cut_store.create(ours) == theirs
    assert cutter.cuts == 1


async def test_a_replacement_whose_reply_was_lost_has_won(
    cut_store: RedisStore, cutter: Cutter, store: RedisStore
) -> None:
    """The second attempt finds its own version in the store and is content."""
    first = new_transaction()
    changed = advance(first, Event.issued, certificate_der=b"certificate")
    await store.create(first)
    cutter.cut_next_reply = True
    await cut_store.replace(changed)
    assert cutter.cuts == 1
    assert await store.load(first.key) == changed


async def test_an_equal_transaction_of_another_node_is_not_taken_for_our_own(
    store: RedisStore,
) -> None:
    """Two nodes may come to store the very same: only the first one goes on to the CA."""
    transaction = new_transaction()
    assert await store.create(transaction) is None
    assert await store.create(transaction) == transaction
    changed = advance(transaction, Event.issued)
    await store.replace(changed)
    with pytest.raises(StaleTransaction):
        await store.replace(changed)


@pytest.mark.parametrize("versions_ahead", [1, 2])
async def test_a_replacement_whose_reply_was_lost_has_still_lost_to_another(
    cut_store: RedisStore, cutter: Cutter, store: RedisStore, versions_ahead: int
) -> None:
    """Another node's version, the same number or a later one, is not taken for our own."""
    first = new_transaction()
    await store.create(first)
    theirs: Transaction = first
    for _ in range(versions_ahead):
        theirs = advance(theirs, Event.taken_over, endpoint="theirs")
        await store.replace(theirs)
    cutter.cut_next_reply = True
    with pytest.raises(StaleTransaction, match=f"found version {versions_ahead}"):
        await cut_store.replace(advance(first, Event.taken_over, endpoint="ours"))
    assert cutter.cuts == 1
    assert await store.load(first.key) == theirs


async def test_of_many_calls_the_cut_one_is_repeated(
    cut_store: RedisStore, cutter: Cutter, store: RedisStore
) -> None:
    """A call whose connection breaks is repeated, and every call gets its own result."""
    mine = [new_transaction(signer=number) for number in range(50)]
    cutter.cut_next_reply = True
    assert await asyncio.gather(*(cut_store.create(each) for each in mine)) == [None] * 50
    assert cutter.cuts == 1
    assert await asyncio.gather(*(store.load(each.key) for each in mine)) == mine


async def test_a_connection_that_fell_silent_is_replaced_in_time(
    cutter: Cutter, redis_url: str, store: RedisStore
) -> None:
    """Half the time is left for a second attempt, which knows what the first one stored."""
    transaction = new_transaction()
    async with cutter.relaying() as url, opened(url, timeout_seconds=1) as silent_store:
        await silent_store.ping()
        cutter.drop_next_reply = True
        assert await silent_store.create(transaction) is None
    assert not cutter.drop_next_reply
    assert await store.load(transaction.key) == transaction


def test_a_connection_that_was_reset_is_replaced_on_uvloop(redis_server: RedisServer) -> None:
    """uvloop reports a reset connection in its own way, and the gateway runs on uvloop."""

    async def scenario() -> None:
        cutter = Cutter(redis_server.port)
        async with cutter.relaying() as url, opened(url) as store:
            await store.ping()
            cutter.reset()
            await asyncio.sleep(0.05)  # the reset arrives while the connection is idle
            await store.ping()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


async def test_after_a_failover_the_new_primary_is_used(
    cutter: Cutter, own_redis_server: RedisServer, redis_url: str, store: RedisStore
) -> None:
    """A server that has become a replica sends all connections to where the address leads now."""
    new_port, cutter.port = cutter.port, own_redis_server.port
    async with cutter.relaying() as url, opened(url) as moving_store:
        await asyncio.gather(*(moving_store.ping() for _ in range(5)))
        own_redis_server.command("REPLICAOF 127.0.0.1 1")
        cutter.port = new_port
        transactions = [new_transaction(signer=number) for number in range(5)]
        for transaction in transactions:
            assert await moving_store.create(transaction) is None
    assert await store.load(transactions[4].key) == transactions[4]


async def test_nothing_of_a_signer_is_left_once_its_transactions_expired(
    store: RedisStore, redis_server: RedisServer
) -> None:
    """The count of a signer's transactions lives as long as the longest of them, and no longer.

    Redis hears of them when a node has no room of its own left for the signer.
    """
    name = f"ra:signer:{{{1:064x}}}:acme-radio"
    for number in range(9):
        assert redis_server.command(f"EXISTS {name}") == b":0\r\n"
        lifetime = timedelta(minutes=5 if number == 3 else 1)
        await store.create(new_transaction(bytes((number,)), lifetime=lifetime))
    assert redis_server.command(f"ZCARD {name}") == b":9\r\n"
    assert 299_000 < int(redis_server.command(f"PTTL {name}")[1:]) <= 300_000


async def test_a_signer_that_two_nodes_give_room_unasked_has_a_little_more_at_most(
    redis_url: str,
) -> None:
    """One node counts exactly; each further one may give what it gives before it asks."""
    limit, share = 32, 2
    two = [
        RedisStore(redis_url, clock=system_clock, seal_keys=[SEAL_KEY], max_per_signer=limit)
        for _ in "ab"
    ]

    async def created(store: RedisStore, signer: int, number: int) -> int:
        try:
            return int(await store.create(new_transaction(b"%d" % number, signer=signer)) is None)
        except TooManyTransactions:
            return 0

    try:
        alone = [await created(two[0], 1, number) for number in range(limit + 9)]
        assert alone == [1] * limit + [0] * 9
        late = [await created(two[1], 1, 100 + number) for number in range(9)]
        assert sum(late) <= share
        assert late[share:] == [0] * (9 - share)
        both = [await created(two[number % 2], 2, number) for number in range(2 * limit)]
        assert limit <= sum(both) <= limit + share
        assert both[-9:] == [0] * 9
    finally:
        for store in two:
            await store.close()
