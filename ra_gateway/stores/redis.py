"""The transaction store that any number of gateway nodes share: one Redis hash per transaction.

    {prefix}:{<transactionID>}:<domain>:<signer digest>   hash: `Transaction.to_fields`
    {prefix}:{<transactionID>}                                 set: keys of these hashes (at most 8)
    {prefix}:signer:{<digest>}:<domain>                        sorted set: a signer's transactions by when they expire
    {prefix}:agenda                                            sorted set: transactions by when they are due
    {prefix}:{held}                                            hash: requester to the request that waits for approval
    {prefix}:{held}:until                                      sorted set: requesters by when their requests expire

The braces are a Redis hash tag: both keys of a transactionID live in one cluster slot, so that one
script may touch both. Every method that writes is one script, hence atomic, and one round trip.

Redis must not evict (`maxmemory-policy noeviction`): a transaction that disappears early could be
issued twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Final, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from ra_gateway.errors import StaleTransaction, StoreUnavailable
from ra_gateway.ra.ports import Clock
from ra_gateway.ra.transaction import Transaction, TransactionKey, too_many

FIND_LIMIT: Final = 8
"""How many signers' transactions the index of one transactionID holds (the port's limit)."""

_PLAIN_ID_BYTES: Final = 32
"""Longer transactionIDs are hashed for the key: a device may send one as long as the body limit."""

_PROBE_LIFETIME_MS: Final = 1000
_FIRST_PAUSE_SECONDS: Final = 0.01
_LONGEST_PAUSE_SECONDS: Final = 0.2

# An index lives as long as the longest-lived transaction in it. Members whose hash has expired are
# removed only when their place is needed.
_CREATE: Final = f"""
local live = redis.call('HGETALL', KEYS[1])
if #live > 0 then return live end
local ttl = tonumber(ARGV[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
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

# A place among a signer's transactions, taken before the transaction is stored, by a script of its own: they need not
# live in one cluster slot. One that was taken in vain is free again when the transaction would have expired.
_RESERVE: Final = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
if not redis.call('ZSCORE', KEYS[1], ARGV[3]) then
  if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
  redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3])
end
local ttl = tonumber(ARGV[5])
if redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
return 1
"""

# The hash is written anew so that a field which the new version no longer has does not survive.
_REPLACE: Final = """
local version = redis.call('HGET', KEYS[1], 'version')
if version ~= ARGV[2] then return version end
local ttl = tonumber(ARGV[1])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[1], ttl)
if redis.call('PTTL', KEYS[2]) < ttl then redis.call('PEXPIRE', KEYS[2], ttl) end
return 1
"""

_FIND: Final = """
local found = {}
for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local fields = redis.call('HGETALL', key)
  if #fields > 0 then found[#found + 1] = fields end
end
return found
"""

_HOLD: Final = """
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[5])) do
  redis.call('HDEL', KEYS[1], gone)
  redis.call('ZREM', KEYS[2], gone)
end
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
return 1
"""

_HELD: Final = """
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf')
for place, requester in ipairs(found) do found[place] = redis.call('HGET', KEYS[1], requester) end
return found
"""

_UNHOLD: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return 1
"""

_T = TypeVar("_T")


class RedisStore:
    """Keeps transactions in a Redis server (6.0 or later) that all nodes share.

    Every method raises `StoreUnavailable` when Redis cannot be asked or refuses. A change that
    fails so may still have been made; only loading the transaction can tell.

    Args:
        url: `redis://`, `rediss://` or `unix://` URL as redis-py reads it.
        clock: Turns `expires_at` into a lifetime, which Redis counts down: its clock may differ.
        key_prefix: Begins every key; no braces.
        password: Used when the URL has none.
        timeout_seconds: Bound of every method except `wait`, whatever happens to Redis (above 0).
        max_connections: At most so many (1 or more); further calls wait for one within their time.
        max_per_signer: How many live transactions one signer may have, RAs apart; each counts for as long as
            it was to live when it was created.
        max_held: Most requests that wait for an operator; one more is refused.

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
        max_connections: int = 64,
        max_per_signer: int = 128,
        max_held: int = 10_000,
    ) -> None:
        if "{" in key_prefix or "}" in key_prefix:
            raise ValueError("key_prefix must not contain braces: they mark the Redis hash tag")
        self._clock = clock
        self._prefix = key_prefix
        self._timeout_seconds = timeout_seconds
        self._pool = _pool(url, password, timeout_seconds, max_connections)
        self._name = _name(self._pool.connection_kwargs)
        self._client = Redis(connection_pool=self._pool)
        self._create = self._client.register_script(_CREATE)
        self._reserve = self._client.register_script(_RESERVE)
        self._replace = self._client.register_script(_REPLACE)
        self._find = self._client.register_script(_FIND)
        self._hold = self._client.register_script(_HOLD)
        self._held = self._client.register_script(_HELD)
        self._unhold = self._client.register_script(_UNHOLD)
        self._max_per_signer = max_per_signer
        self._max_held = max_held
        self._held_keys = [f"{key_prefix}:{{held}}", f"{key_prefix}:{{held}}:until"]
        self._closed = False

    async def create(self, transaction: Transaction) -> Transaction | None:
        """Store a new transaction unless its key is live, and return the live one if it is.

        Raises:
            TooManyTransactions: Its signer has as many as it may have.
        """
        if not await self._has_room(transaction):
            live = await self.load(transaction.key)
            if live is None:
                raise too_many(self._max_per_signer)
            return live
        keys = self._keys(transaction.key)
        args: list[Any] = [self._lifetime_ms(transaction), *_flat(transaction)]

        async def attempt(again: bool) -> Transaction | None:
            reply = await self._create(keys, args)
            live = self._read(_pairs(reply)) if reply else None
            return None if again and live == transaction else live

        return await self._ask(attempt)

    async def _has_room(self, transaction: Transaction) -> bool:
        key = transaction.key
        if key.speaks_for_many:
            return True
        index = f"{self._prefix}:signer:{{{key.signer_digest.hex()}}}:{key.domain}"
        times = self._clock().timestamp(), transaction.expires_at.timestamp()
        # By digest: a transactionID may be long.
        member = hashlib.sha256(key.transaction_id).hexdigest()
        limits = self._max_per_signer, max(self._lifetime_ms(transaction), 1)
        reserved: Any = await self._ask(lambda _: self._reserve([index], [*times, member, *limits]))
        return bool(reserved)

    async def load(self, key: TransactionKey) -> Transaction | None:
        """Return the live transaction under a key, or None."""
        hash_key, _ = self._keys(key)
        fields = await self._ask(lambda _: self._client.hgetall(hash_key))
        return self._read(fields) if fields else None

    async def find(self, transaction_id: bytes) -> list[Transaction]:
        """Return live transactions with this transactionID, whoever signed them (at most 8)."""
        index = self._index(transaction_id)
        found = await self._ask(lambda _: self._find([index]))
        return [self._read(_pairs(fields)) for fields in found]

    async def replace(self, transaction: Transaction) -> None:
        """Replace the stored version `transaction.version - 1` by this one.

        Raises:
            StaleTransaction: Another version is stored, or none.
        """
        keys = self._keys(transaction.key)
        expected = transaction.version - 1
        args: list[Any] = [self._lifetime_ms(transaction), expected, *_flat(transaction)]

        async def attempt(again: bool) -> None:
            found = await self._replace(keys, args)
            if found == 1 or (again and await self.load(transaction.key) == transaction):
                return
            there = f"version {found.decode()}" if found else "none"
            raise StaleTransaction(f"expected version {expected} in the store, found {there}")

        await self._ask(attempt)

    async def plan(self, key: TransactionKey, due_at: datetime) -> None:
        """Have a transaction looked at from a time on; a later call changes the time."""
        agenda, member, score = f"{self._prefix}:agenda", _member(key), due_at.timestamp()
        await self._ask(lambda _: self._client.zadd(agenda, {member: score}))

    async def due(self, now: datetime, *, limit: int) -> list[TransactionKey]:
        """Return the transactions whose time has come, the longest due first."""
        agenda, score = f"{self._prefix}:agenda", now.timestamp()
        found: Any = await self._ask(
            lambda _: self._client.zrange(
                agenda, "-inf", str(score), byscore=True, offset=0, num=limit
            )
        )
        return [_key(member) for member in found]

    async def drop(self, key: TransactionKey) -> None:
        """Forget a transaction, if it is planned."""
        await self._ask(lambda _: self._client.zrem(f"{self._prefix}:agenda", _member(key)))

    async def hold(self, key: TransactionKey, until: datetime) -> None:
        """List a request that waits for an operator, in the place of an earlier one by the same requester.

        Raises:
            StoreUnavailable: Too many wait already.
        """
        times = until.timestamp(), self._clock().timestamp()
        args: list[Any] = [_requester(key), _member(key), self._max_held, *times]
        if not await self._ask(lambda _: self._hold(self._held_keys, args)):
            raise StoreUnavailable(
                f"{self._name}: {self._max_held} requests wait for approval already"
            )

    async def held(self) -> list[TransactionKey]:
        """Return the requests that are listed."""
        args = [self._clock().timestamp()]
        found: Any = await self._ask(lambda _: self._held(self._held_keys, args))
        return [_key(member) for member in found]

    async def unhold(self, key: TransactionKey) -> None:
        """Take a request off the list, unless another one took its place."""
        args = [_requester(key), _member(key)]
        await self._ask(lambda _: self._unhold(self._held_keys, args))

    async def wait(
        self, key: TransactionKey, *, version: int, timeout_seconds: float
    ) -> Transaction | None:
        """Wait until the stored version is no longer `version`, at most `timeout_seconds`.

        Returns:
            The transaction as it is then (unchanged after a timeout), or None if it is gone.
        """
        # Asked again and again instead of subscribed to: a published message that is lost (a
        # reconnect, a failover, a node that dies between writing and publishing) would be an answer
        # that the device never gets. A question costs some 100 microseconds, and few wait.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        hash_key, _ = self._keys(key)
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            stored = await self._ask(lambda _: self._client.hget(hash_key, "version"))
            left_seconds = deadline - loop.time()
            if stored is None:
                return None
            if stored != b"%d" % version or left_seconds <= 0:
                return await self.load(key)
            await asyncio.sleep(min(pause_seconds, left_seconds))
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    async def ping(self) -> None:
        """Return if the store can be written to now."""
        # A real write: a read-only replica, or a Redis whose memory is full, still answers PING.
        probe = f"{self._prefix}:probe"
        await self._ask(lambda _: self._client.set(probe, 1, px=_PROBE_LIFETIME_MS))

    async def close(self) -> None:
        """Release the connections; whatever is asked afterwards is refused."""
        self._closed = True
        await self._disconnect()

    def _index(self, transaction_id: bytes) -> str:
        if len(transaction_id) > _PLAIN_ID_BYTES:
            tag = "sha256-" + hashlib.sha256(transaction_id).hexdigest()
        else:
            tag = transaction_id.hex() or "empty"  # Redis takes {} for no hash tag at all
        return f"{self._prefix}:{{{tag}}}"

    def _keys(self, key: TransactionKey) -> tuple[str, str]:
        index = self._index(key.transaction_id)
        return f"{index}:{key.domain}:{key.signer_digest.hex()}", index

    def _lifetime_ms(self, transaction: Transaction) -> int:
        return math.ceil((transaction.expires_at - self._clock()) / timedelta(milliseconds=1))

    def _read(self, fields: Mapping[Any, Any]) -> Transaction:
        try:
            return Transaction.from_fields({name.decode(): fields[name] for name in fields})
        except (ValueError, TypeError) as error:
            raise StoreUnavailable(
                f"{self._name}: a stored transaction cannot be read: {error}"
            ) from error

    async def _ask(self, attempt: Callable[[bool], Awaitable[_T]], *, again: bool = False) -> _T:
        """Make an attempt in half the time; if its connection failed, make another and tell it so.

        Redis may have carried out the first one. So the second attempt to write something takes
        for its own what it finds equal to it; to a first attempt, that comes from another node.
        """
        try:
            if self._closed:
                raise StoreUnavailable(f"{self._name}: the store is closed", rule="R95")
            async with asyncio.timeout(self._timeout_seconds / 2):
                return await attempt(again)
        # RuntimeError: so uvloop refuses to write to a connection that the peer has reset.
        except (RedisError, OSError, RuntimeError) as error:
            # Redis before 7 wraps what a command in a script says into the script's own error.
            demoted = isinstance(error, ReadOnlyError) or " -READONLY " in str(error)
            if again or (isinstance(error, ResponseError) and not demoted):
                what = f"{type(error).__name__}: {error}"
                if isinstance(error, TimeoutError):
                    what = f"no answer within {self._timeout_seconds} seconds"
                raise StoreUnavailable(f"{self._name}: {what}", rule="R95") from error
            if demoted:  # idle connections lead to the same server: it is no longer the primary
                await self._disconnect(inuse_connections=False)
        finally:
            if self._closed:  # what was just being connected when the store was closed
                await self._disconnect()
        return await self._ask(attempt, again=True)

    async def _disconnect(self, *, inuse_connections: bool = True) -> None:
        with contextlib.suppress(RedisError):  # a connection that cannot be closed in order is gone
            await self._pool.disconnect(inuse_connections)


def _requester(key: TransactionKey) -> str:
    return f"{key.signer_digest.hex()} {key.domain}"


def _member(key: TransactionKey) -> str:
    """Return a transaction's key as one text; a domain's name comes last, as it may have blanks."""
    return f"{key.transaction_id.hex()} {_requester(key)}"


def _key(member: bytes) -> TransactionKey:
    transaction_id, signer_digest, domain = member.decode().split(" ", 2)
    return TransactionKey(domain, bytes.fromhex(signer_digest), bytes.fromhex(transaction_id))


def _flat(transaction: Transaction) -> chain[Any]:
    return chain.from_iterable(transaction.to_fields().items())


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _pool(url: str, password: str | None, seconds: float, count: int) -> BlockingConnectionPool:
    try:
        options: dict[str, Any] = {"password": password, **parse_url(url)}
        # Set last: replies in another shape cannot be read, and only `_ask` knows what a repetition
        # means. `_ask` keeps the time, too: with a `socket_timeout`, redis-py on Python 3.11 lets
        # a call go on that was cancelled while it was sending.
        options |= {
            "protocol": 2,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": seconds,
            "timeout": None,  # of waiting for a connection
            "max_connections": count,
        }
        pool = BlockingConnectionPool(**options)
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError):
        raise ValueError(  # its text never contains the URL, because of the password
            "not a Redis URL: expected redis://host:port/database, rediss:// or unix://,"
            " with options as in redis-py"
        ) from None
    return pool


def _name(options: dict[str, Any]) -> str:
    """Return how log lines call this Redis: where it is, never the password."""
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return f"redis {where}/{options.get('db', 0)}"
