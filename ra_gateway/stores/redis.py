"""The transaction store that any number of gateway nodes share: one Redis hash per transaction.

    {prefix}:{<transactionID>}:<domain>:<signer fingerprint>   hash: `Transaction.to_fields`
    {prefix}:{<transactionID>}                                 set: keys of these hashes (at most 8)

The braces are a Redis hash tag: both keys of a transactionID live in one cluster slot, so that one
script may touch both. Every method that writes is one script, hence atomic, and one round trip.

Commands share one connection and are pipelined on it. Redis executes them one after the other
anyway; redis-py's pool and retries would cost several times the command itself, and a retry here
must know what it repeats.

Redis must not evict (`maxmemory-policy noeviction`): a transaction that disappears early could be
issued twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import deque
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from ra_gateway.errors import StaleTransaction, StoreUnavailable
from ra_gateway.ra.ports import Clock
from ra_gateway.ra.transaction import Transaction, TransactionKey

FIND_LIMIT: Final = 8
"""How many signers' transactions the index of one transactionID holds (the port's limit)."""

_PLAIN_ID_BYTES: Final = 32
"""Longer transactionIDs are hashed for the key: a device may send one as long as the body limit."""

_PROBE_LIFETIME_MS: Final = 1000
_FIRST_PAUSE_SECONDS: Final = 0.01
_LONGEST_PAUSE_SECONDS: Final = 0.2

# ARGV[1] of the first two scripts is "1" when an earlier attempt of the same call lost its
# connection before its answer came. Then Redis may have carried it out, and finding exactly our own
# fields means that it did. Only then: in a first attempt, equal fields come from another node.
_SAME: Final = """
local function same(stored, first)
  if #stored ~= #ARGV - first + 1 then return false end
  local value = {}
  for i = 1, #stored, 2 do value[stored[i]] = stored[i + 1] end
  for i = first, #ARGV, 2 do
    if value[ARGV[i]] ~= ARGV[i + 1] then return false end
  end
  return true
end
"""

# An index lives as long as the longest-lived transaction in it. Members whose hash has expired are
# removed only when their place is needed.
_CREATE: Final = (
    _SAME
    + f"""
local live = redis.call('HGETALL', KEYS[1])
if #live > 0 then
  if ARGV[1] == '1' and same(live, 3) then return false end
  return live
end
local ttl = tonumber(ARGV[2])
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[1], ttl)
if redis.call('SCARD', KEYS[2]) >= {FIND_LIMIT} then
  for _, key in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    if redis.call('EXISTS', key) == 0 then redis.call('SREM', KEYS[2], key) end
  end
end
if redis.call('SCARD', KEYS[2]) < {FIND_LIMIT} then redis.call('SADD', KEYS[2], KEYS[1]) end
if redis.call('PTTL', KEYS[2]) < ttl then redis.call('PEXPIRE', KEYS[2], ttl) end
return false
"""
)

# The hash is written anew so that a field which the new version no longer has does not survive. All
# fields are sent: leaving out those that did not change would save some 5 microseconds, and would
# have to trust that nobody changed them.
_REPLACE: Final = (
    _SAME
    + """
local version = redis.call('HGET', KEYS[1], 'version')
if version ~= ARGV[3] then
  if ARGV[1] == '1' and version and same(redis.call('HGETALL', KEYS[1]), 4) then return 1 end
  return version or ''
end
local ttl = tonumber(ARGV[2])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[1], ttl)
if redis.call('PTTL', KEYS[2]) < ttl then redis.call('PEXPIRE', KEYS[2], ttl) end
return 1
"""
)

_FIND: Final = """
local found = {}
for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local fields = redis.call('HGETALL', key)
  if #fields > 0 then found[#found + 1] = fields end
end
return found
"""

_Command = tuple[bytes | str | int, ...]


def _sha1(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()  # its name in Redis


_SCRIPTS: Final = {_sha1(script): script for script in (_CREATE, _REPLACE, _FIND)}
_CREATE_SHA, _REPLACE_SHA, _FIND_SHA = _SCRIPTS


class RedisStore:
    """Keeps transactions in a Redis server (6.0 or later) that all nodes share.

    A connection is made when it is first needed, and again when it was lost. A call whose
    connection breaks is tried once more within its time. A change that fails with
    `StoreUnavailable` may still have been made; only loading the transaction can tell.

    Args:
        url: `redis://`, `rediss://` or `unix://` URL as redis-py reads it.
        clock: Turns `expires_at` into a lifetime, which Redis counts down: its clock may differ.
        key_prefix: Begins every key; no braces.
        password: Used when the URL has none.
        timeout_seconds: Bound of every method except `wait`, whatever happens to Redis (above 0).

    Raises:
        ValueError: The URL or the prefix cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        key_prefix: str = "ra",
        password: str | None = None,
        timeout_seconds: float = 2.0,
    ) -> None:
        if "{" in key_prefix or "}" in key_prefix:
            raise ValueError("key_prefix must not contain braces: they mark the Redis hash tag")
        self._clock = clock
        self._prefix = key_prefix
        self._timeout_seconds = timeout_seconds
        self._pool = _connection_source(url, password, timeout_seconds)
        self._name = _name(self._pool)
        self._link: _Link | None = None
        self._linking = asyncio.Lock()
        self._closed = False

    async def create(self, transaction: Transaction) -> Transaction | None:
        """Store a new transaction unless its key is live, and return the live one if it is.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        key, index = self._keys(transaction.key)
        live = await self._ask(
            b"EVALSHA", _CREATE_SHA, 2, key, index, b"0", self._lifetime_ms(transaction),
            *_flat(transaction),
        )  # fmt: skip
        return None if live is None else self._read(live)

    async def load(self, key: TransactionKey) -> Transaction | None:
        """Return the live transaction under a key, or None.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        fields = await self._ask(b"HGETALL", self._keys(key)[0])
        return self._read(fields) if fields else None

    async def find(self, transaction_id: bytes) -> list[Transaction]:
        """Return live transactions with this transactionID, whoever signed them (at most 8).

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        found = await self._ask(b"EVALSHA", _FIND_SHA, 1, self._index(transaction_id))
        return [self._read(fields) for fields in found]

    async def replace(self, transaction: Transaction) -> None:
        """Replace the stored version `transaction.version - 1` by this one.

        Raises:
            StaleTransaction: Another version is stored, or none.
            StoreUnavailable: Redis cannot be asked.
        """
        key, index = self._keys(transaction.key)
        expected = transaction.version - 1
        found = await self._ask(
            b"EVALSHA", _REPLACE_SHA, 2, key, index, b"0", self._lifetime_ms(transaction),
            expected, *_flat(transaction),
        )  # fmt: skip
        if found != 1:
            there = f"version {found.decode()}" if found else "none"
            raise StaleTransaction(f"expected version {expected} in the store, found {there}")

    async def wait(
        self, key: TransactionKey, *, version: int, timeout_seconds: float
    ) -> Transaction | None:
        """Wait until the stored version is no longer `version`, at most `timeout_seconds`.

        Returns:
            The transaction as it is then (unchanged after a timeout), or None if it is gone.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        # Asked again and again instead of subscribed to: a published message that is lost (a
        # reconnect, a failover, a node that dies between writing and publishing) would be an answer
        # that the device never gets. A question costs some 20 to 60 microseconds, and few wait.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        hash_key = self._keys(key)[0]
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            stored = await self._ask(b"HGET", hash_key, b"version")
            left_seconds = deadline - loop.time()
            if stored is None:
                return None
            if stored != b"%d" % version or left_seconds <= 0:
                return await self.load(key)
            await asyncio.sleep(min(pause_seconds, left_seconds))
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    async def ping(self) -> None:
        """Return if the store can be written to now.

        Raises:
            StoreUnavailable: Redis cannot be asked, or refuses to write.
        """
        # A real write: a read-only replica, or a Redis whose memory is full, still answers PING.
        await self._ask(b"SET", f"{self._prefix}:probe", b"1", b"PX", _PROBE_LIFETIME_MS)

    async def close(self) -> None:
        """Release the connection; whatever is asked afterwards is refused."""
        self._closed = True
        async with self._linking:  # a connection that is just being made is released, too
            link, self._link = self._link, None
        if link is not None:
            await link.close()

    def _index(self, transaction_id: bytes) -> str:
        if len(transaction_id) > _PLAIN_ID_BYTES:
            tag = "sha256-" + hashlib.sha256(transaction_id).hexdigest()
        else:
            tag = transaction_id.hex() or "empty"  # Redis takes {} for no hash tag at all
        return f"{self._prefix}:{{{tag}}}"

    def _keys(self, key: TransactionKey) -> tuple[str, str]:
        index = self._index(key.transaction_id)
        return f"{index}:{key.domain}:{key.signer_fingerprint.hex()}", index

    def _lifetime_ms(self, transaction: Transaction) -> int:
        return math.ceil((transaction.expires_at - self._clock()) / timedelta(milliseconds=1))

    def _read(self, fields: list[bytes]) -> Transaction:
        pairs = iter(fields)
        try:
            return Transaction.from_fields(
                {name.decode(): value for name, value in zip(pairs, pairs, strict=True)}
            )
        except (ValueError, TypeError) as error:
            raise StoreUnavailable(
                f"{self._name}: a stored transaction cannot be read: {error}"
            ) from error

    async def _ask(self, *command: bytes | str | int) -> Any:
        link: _Link | None = None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                try:
                    link = await self._connected()
                    return await _execute(link, command)
                except RedisError as error:
                    if not _calls_for_another_connection(error):
                        raise
                    if link is not None:
                        link.give_up()
                    link = await self._connected()
                    return await _execute(link, _again(command))
        except TimeoutError as error:
            # A connection that is silent for this long is not worth keeping, even if it is intact.
            if link is not None:
                link.give_up()
            raise StoreUnavailable(
                f"{self._name}: no answer within {self._timeout_seconds} seconds", rule="R95"
            ) from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable(
                f"{self._name}: {type(error).__name__}: {error}", rule="R95"
            ) from error

    async def _connected(self) -> _Link:
        link = self._link
        if link is not None and link.is_open:
            return link
        async with self._linking:
            if self._closed:
                raise RedisConnectionError("the store is closed")
            if self._link is None or not self._link.is_open:
                self._link = await _Link.open(self._pool)
            return self._link


class _Link:
    """One connection with many commands under way; replies come in the order of the commands."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._given_up = False
        self._reading = self._loop.create_task(self._read())

    @classmethod
    async def open(cls, pool: ConnectionPool) -> _Link:
        """Connect and log in."""
        connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()  # type: ignore[no-untyped-call]
        return cls(connection)

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent: a lost connection is noticed while nobody asks, too."""
        return not self._given_up and self._connection.is_connected and not self._reading.done()

    async def call(self, command: _Command) -> Any:
        """Send a command and return its reply.

        Raises:
            RedisError: The connection is lost, or Redis refuses the command.
        """
        # The connection would open itself again, but nobody would read from it.
        if not self.is_open:
            raise RedisConnectionError("the connection was lost")
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(reply)
        try:
            # Nothing yields before the bytes are in the transport: `_waiting` has the order of the
            # replies. A cancelled caller leaves its place there, and its reply is dropped.
            await self._connection.send_packed_command(packed, check_health=False)
        except BaseException:
            if not reply.cancel():
                reply.exception()  # looked at, so that asyncio does not report it as forgotten
            raise
        return await reply

    def give_up(self) -> None:
        """End the connection; calls under way fail with a `ConnectionError`."""
        self._given_up = True
        self._reading.cancel()

    async def close(self) -> None:
        """End the connection and wait until it is gone."""
        self.give_up()
        await asyncio.wait([self._reading])

    async def _read(self) -> None:
        cause = "closed by us"
        try:
            while True:
                try:
                    reply, refusal = await self._connection.read_response(), None
                except ResponseError as error:
                    reply, refusal = None, error
                waiting = self._waiting.popleft()
                if waiting.done():
                    continue
                if refusal is None:
                    waiting.set_result(reply)
                else:
                    waiting.set_exception(refusal)
        except (RedisError, OSError) as error:
            cause = str(error)
        except IndexError:
            cause = "a reply nobody asked for"
        finally:
            await self._connection.disconnect(nowait=True)
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_exception(RedisConnectionError(f"the connection was lost: {cause}"))
            self._waiting.clear()


async def _execute(link: _Link, command: _Command) -> Any:
    try:
        return await link.call(command)
    except NoScriptError:
        # A Redis that is new, was restarted or took over: EVAL runs the script and remembers it.
        sha = command[1]
        assert isinstance(sha, str)
        return await link.call((b"EVAL", _SCRIPTS[sha], *command[2:]))


def _calls_for_another_connection(error: RedisError) -> bool:
    """Tell whether the connection was lost, or leads to a server that is no longer the primary."""
    # Redis before 7 wraps what a command in a script says into the script's own error.
    return isinstance(error, RedisConnectionError | ReadOnlyError) or " -READONLY " in str(error)


def _again(command: _Command) -> _Command:
    """Return the command for a second attempt: `create` and `replace` are told so (see `_SAME`)."""
    if command[1] in (_CREATE_SHA, _REPLACE_SHA):
        return (*command[:5], b"1", *command[6:])
    return command


def _flat(transaction: Transaction) -> Iterable[bytes | str]:
    for name, value in transaction.to_fields().items():
        yield name
        yield value


def _connection_source(url: str, password: str | None, timeout_seconds: float) -> ConnectionPool:
    """Return a redis-py pool, which is used only to make connections as the URL says.

    Raises:
        ValueError: The URL cannot be used; the text never contains it, because of the password.
    """
    given: dict[str, Any] = {"client_name": "ra-gateway"}
    if password is not None:
        given["password"] = password
    try:
        pool = ConnectionPool.from_url(url, **given)
        # Set last, so that nothing in the URL changes them: replies are bytes in the shape of
        # RESP2, and repeating and timing are done here, where it is known what a repetition means.
        pool.connection_kwargs.update(
            protocol=2,
            decode_responses=False,
            socket_timeout=None,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
        )
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError):
        raise ValueError(
            "not a Redis URL: expected redis://host:port/database, rediss:// or unix://,"
            " with options as in redis-py"
        ) from None
    return pool


def _name(pool: ConnectionPool) -> str:
    """Return how log lines call this Redis: where it is, never the password."""
    options = pool.connection_kwargs
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return f"redis {where}/{options.get('db', 0)}"
