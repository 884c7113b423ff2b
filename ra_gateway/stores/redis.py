"""The transaction store that any number of gateway nodes share: one sealed record per transaction.

    {prefix}:{<transactionID>}:<domain>:<signer digest>   hash: version, record (seal and `Transaction.to_fields`)
    {prefix}:{<transactionID>}                            set: keys of these hashes (at most 8)
    {prefix}:signer:{<digest>}:<domain>                   sorted set: transactions of a signer of many, by their ends
    {prefix}:agenda                                       sorted set: the schedule, transactions by when they are due
    {prefix}:{held}                                       hash: requester to the request that waits for approval
    {prefix}:{held}:until                                 sorted set: requesters by when their requests expire
    {prefix}:{certificate}:<digest>                       string: seal, version and what became of a certificate
    {prefix}:<kind>:<digest>                              string: seal and text, of each kind of `DeviceRecord`
    {prefix}:rate:<name>                                  string: when nothing will be missing any more of a rate
    {prefix}:seal                                         string: a mark under the key by which the nodes seal

The braces are a Redis hash tag: both keys of a transactionID live in one cluster slot, so that one
script may touch both. Every method that writes is one script, hence atomic, and one round trip.

Whoever else can write to this Redis must gain nothing by it. A record is sealed by a key that only the nodes have, over
its Redis key, its version and every octet, and is verified before any of it is read (`sealing`). What is not sealed
(index, schedule, list) is a hint: it leads to sealed records, and decides nothing. A record that does not verify, is
older than one this node has seen, or is gone although its time is not over, is lost state: it is reported and never
used, and no new transaction begins under its key until it would have expired.

Redis must not evict (`maxmemory-policy noeviction`): a transaction that disappears early could be
issued twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any, Final, TypeVar

import structlog
from redis.exceptions import RedisError, ResponseError

from ra_gateway.clocks import elapsed_seconds
from ra_gateway.durations import Durations
from ra_gateway.errors import StaleTransaction, StoreUnavailable, TransactionInUse
from ra_gateway.events import Component, EventSink, StoreWatch, unheard
from ra_gateway.ra.confirmation_records import ConfirmationNote, ConfirmationRecord
from ra_gateway.ra.ports import Backlog, Clock, DeviceRecord
from ra_gateway.ra.rates import Rate, Taken
from ra_gateway.ra.transaction import Transaction, TransactionKey, too_many
from ra_gateway.stores import redis_scripts as scripts
from ra_gateway.stores.redis_servers import Script, Servers, is_passing, open_servers
from ra_gateway.stores.sealing import SEAL_OCTETS, NotSealed, Seals, packed, unpacked
from ra_gateway.stores.seen import Age, Seen, age_of
from ra_gateway.stores.signer_rooms import SignerRooms

log = structlog.get_logger()

_PLAIN_ID_BYTES: Final = 32
"""Longer transactionIDs are hashed for the key: a device may send one as long as the body limit."""

_PROBE_LIFETIME_MS: Final = 1000
_FIRST_PAUSE_SECONDS: Final = 0.01
_LONGEST_PAUSE_SECONDS: Final = 0.2

_MARKED: Final = b"sealed by the nodes"

_SEEN_LIMIT: Final = 65_536
"""Certificates of which a node remembers what became of them."""

_REPORT_SECONDS: Final = 10.0
"""Between two log lines about records that do not verify: a stranger must not fill the log."""

_T = TypeVar("_T")


class RedisStore:
    """Keeps transactions in a Redis server (6.0 or later) that all nodes share.

    Every method raises `StoreUnavailable` when Redis cannot be asked or refuses. A change that
    fails so may still have been made; only loading the transaction can tell.

    Args:
        url: As `redis_url` has it, with options as redis-py reads them.
        clock: Turns `expires_at` into a lifetime, which Redis counts down: its clock may differ.
        seal_keys: Keys of the nodes, 32 octets or more each; the first one seals, and each one opens.
        monotonic: Seconds; counts how long what this node has seen must be there.
        key_prefix: Begins every key; no braces.
        password: Used when the URL has none.
        timeout_seconds: Bound of every method except `wait`, whatever happens to Redis (above 0).
        max_connections: At most so many to each server (1 or more); further calls wait for one within their time.
        wait_replicas: So many replicas must have a write before it counts; fewer where fewer follow.
        max_per_signer: How many live transactions one signer may have, RAs apart; each counts for as long as
            it was to live when it was created. A node gives the first few room unasked (`SignerRooms`).
        max_held: Most requests that wait for an operator; one more is refused.
        sink: Takes that Redis is lost, and found again.

    Raises:
        ValueError: The URL, the prefix or a key cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        seal_keys: Sequence[bytes],
        monotonic: Callable[[], float] = elapsed_seconds,
        key_prefix: str = "ra",
        password: str | None = None,
        timeout_seconds: float = 2.0,
        max_connections: int = 64,
        wait_replicas: int = 1,
        max_per_signer: int = 128,
        max_held: int = 10_000,
        sink: EventSink = unheard,
    ) -> None:
        if "{" in key_prefix or "}" in key_prefix:
            raise ValueError("key_prefix must not contain braces: they mark the Redis hash tag")
        self._clock = clock
        self._seals = Seals(seal_keys)
        self._monotonic = monotonic
        self._watch = StoreWatch(sink, Component.gateway, monotonic)
        self._seen = Seen(monotonic)
        self._records: OrderedDict[str, tuple[int, ConfirmationRecord, float]] = OrderedDict()
        self._reported_at, self._unreported = -math.inf, 0
        self.answered, self.failed = Durations(), Durations()
        """How long round trips took."""
        self._is_marked = False
        self.emptied = 0
        """How often our mark, and with it what Redis kept, was gone."""
        self.not_believed = 0
        """How many records and entries of lists were found that no node wrote, or none with our keys."""
        self._prefix = key_prefix
        self._timeout_seconds = timeout_seconds
        self.servers: Servers = open_servers(
            url, password, timeout_seconds, max_connections, wait_replicas
        )
        self.name = self.servers.name

        def reads(*texts: str) -> Iterator[Script]:
            return (Script(self.servers, text) for text in texts)

        def writes(*texts: str) -> Iterator[Script]:
            return (Script(self.servers, text, copied=True) for text in texts)

        self._load, self._version, self._find = reads(scripts.LOAD, scripts.VERSION, scripts.FIND)
        self._create, self._replace = writes(scripts.CREATE, scripts.REPLACE)
        self._bound, self._hold, self._unhold = writes(scripts.BOUND, scripts.HOLD, scripts.UNHOLD)
        self._add, self._remove, self._put_after = writes(
            scripts.ADD, scripts.REMOVE, scripts.PUT_AFTER
        )
        self._put, self._mark, self._remark = writes(scripts.PUT, scripts.MARK, scripts.REMARK)
        # What these write may be lost.
        self._reserve, self._due, self._held = reads(scripts.RESERVE, scripts.DUE, scripts.HELD)
        self._text, self._count, self._take = reads(scripts.TEXT, scripts.COUNT, scripts.TAKE)
        self.mark_key = f"{key_prefix}:seal"
        self._max_per_signer, self._rooms = max_per_signer, SignerRooms(max_per_signer)
        self._max_held = max_held
        self._schedule = f"{key_prefix}:agenda"
        self._held_keys = [f"{key_prefix}:{{held}}", f"{key_prefix}:{{held}}:until"]
        self._closed = False

    async def create(
        self, transaction: Transaction, *, repeatable: bool = False
    ) -> Transaction | None:
        """Store a new transaction unless its key is live, and return the live one if it is.

        Raises:
            TooManyTransactions: Its signer has as many as it may have.
            TransactionInUse: What was stored under the key is lost: it does not verify, or is gone before its time.
        """
        if not await self._has_room(transaction):
            live = await self.load(transaction.key)
            if live is None:
                raise too_many(self._max_per_signer)
            return live
        keys = hash_key, _ = self._keys(transaction.key)
        must_be_there = not repeatable and self._seen.age(hash_key) is not None
        lifetime_ms = self._lifetime_ms(transaction)
        args: list[Any] = [lifetime_ms, int(must_be_there), *self._sealed(hash_key, transaction)]

        async def attempt(again: bool) -> Transaction | None:
            floor = self._seen.age(hash_key)
            reply = await self._create(keys, args)
            if reply == b"lost":
                self._report(hash_key, "is gone before its time")
                raise _lost()
            if not reply:
                self._seen.forget(hash_key)  # of one that is gone
                self._note(hash_key, transaction, args[-1])
                return None
            live = self._read(hash_key, reply, floor, transaction.key)
            if live is None:
                await self._bound([hash_key], [lifetime_ms])
                raise _lost()
            if not again or live != transaction:
                return live
            await self._bound([hash_key], [lifetime_ms])  # also for replicas to have it
            return None

        return await self._ask(attempt)

    async def _has_room(self, transaction: Transaction) -> bool:
        key, now = transaction.key, self._clock()
        # By digest: a transactionID may be long.
        member = hashlib.sha256(key.transaction_id).hexdigest()
        until = transaction.expires_at
        if key.speaks_for_many or self._rooms.take(key.signer, member, until, now):
            return True
        index = f"{self._prefix}:signer:{{{key.signer_digest.hex()}}}:{key.domain}"
        begun = self._rooms.begun(key.signer)
        lifetime_ms = max(self._ms_until(max([until, *begun.values()])), 1)
        args: list[Any] = [now.timestamp(), self._max_per_signer, lifetime_ms]
        args += [until.timestamp(), member]
        for name, end in begun.items():
            args += [end.timestamp(), name]
        reserved: Any = await self._ask(lambda _: self._reserve([index], args))
        return bool(reserved)

    async def load(self, key: TransactionKey) -> Transaction | None:
        """Return the live transaction under a key, or None; what does not verify is reported, and none."""
        hash_key, _ = self._keys(key)

        async def attempt(_again: bool) -> Transaction | None:
            floor = self._seen.age(hash_key)
            reply = await self._load([hash_key])
            return self._read(hash_key, reply, floor, key) if reply else None

        return await self._ask(attempt)

    async def find(self, transaction_id: bytes) -> list[Transaction]:
        """Return live transactions with this transactionID, whoever signed them (at most 8)."""
        index = self._index(transaction_id)

        async def attempt(_again: bool) -> list[Transaction]:
            found = []
            for hash_key, version, record in await self._find([index]):
                name = hash_key.decode(errors="replace")
                each = self._opened(name, [version, record])
                if each is None or each.key.transaction_id != transaction_id:
                    continue
                floor = self._seen.age(name)
                if floor is None or floor <= age_of(each):
                    self._note(name, each, record)
                    found.append(each)
                elif (live := await self.load(each.key)) is not None:  # changed here meanwhile
                    found.append(live)
            return found

        return await self._ask(attempt)

    def awaited(self, transaction_id: bytes) -> Transaction | None:
        """Return, once, a transaction as this node stored it last, whose device is to confirm next."""
        return self._seen.awaited(transaction_id, self._clock())

    async def replace(self, transaction: Transaction) -> None:
        """Replace the stored version `transaction.version - 1` by this one.

        Raises:
            StaleTransaction: Another version is stored, or none.
        """
        keys = hash_key, _ = self._keys(transaction.key)
        expected = transaction.version - 1
        sealed = self._sealed(hash_key, transaction)
        # What is replaced has to be what was seen here last, if that was this version: another one of that number may
        # have begun anew after Redis had lost this one.
        was_sealed = self._seen.seal(hash_key, (transaction.created_at, expected))
        args: list[Any] = [self._lifetime_ms(transaction), expected, *sealed, was_sealed]

        async def attempt(again: bool) -> None:
            found = await self._replace(keys, args)
            if found != 1 and again and await self.load(transaction.key) == transaction:
                found = await self._bound([hash_key], args[:1])
            if found == 1:
                self._note(hash_key, transaction, sealed[1])
                self._seen.await_confirmation(transaction, len(sealed[1]))
                return
            there = "none" if found is None else f"version {found.decode(errors='replace')}"
            raise StaleTransaction(f"expected version {expected} in the store, found {there}")

        await self._ask(attempt)

    async def add(self, key: TransactionKey, due_at: datetime) -> None:
        """Have a transaction looked at from a time on; a later call changes the time."""
        args: list[Any] = [due_at.timestamp(), _member(key)]
        self._note_strange(await self._ask(lambda _: self._add([self._schedule], args)))

    async def due(self, now: datetime, *, limit: int) -> list[TransactionKey]:
        """Return the transactions whose time has come, the longest due first; what is no key is dropped."""
        args: list[Any] = [now.timestamp(), limit]
        strange, members = await self._ask(lambda _: self._due([self._schedule], args))
        self._note_strange(strange)
        found = []
        for member in members:
            key = _key(member)
            if key is None:
                self._note_strange(1)
                await self._ask(lambda _, gone=member: self._remove([self._schedule], [gone]))  # type: ignore[misc]
            else:
                found.append(key)
        return found

    async def remove(self, key: TransactionKey) -> None:
        """Forget a transaction, if it is planned."""
        args: list[Any] = [_member(key)]
        self._note_strange(await self._ask(lambda _: self._remove([self._schedule], args)))

    async def hold(self, key: TransactionKey, until: datetime) -> None:
        """List a request that waits for an operator, in the place of an earlier one by the same requester.

        Raises:
            StoreUnavailable: Too many wait already.
        """
        times = until.timestamp(), self._clock().timestamp()
        args: list[Any] = [_requester(key), _member(key), self._max_held, *times]
        strange, listed = await self._ask(lambda _: self._hold(self._held_keys, args))
        self._note_strange(strange)
        if not listed:
            raise StoreUnavailable(
                f"{self.name}: {self._max_held} requests wait for approval already"
            )

    async def held(self) -> list[TransactionKey]:
        """Return the requests that are listed; what is none is dropped."""
        args: list[Any] = [self._clock().timestamp(), self._max_held]
        strange, members = await self._ask(lambda _: self._held(self._held_keys, args))
        self._note_strange(strange)
        found = []
        for requester, member in members:
            key = _key(member)
            if key is None or _requester(key).encode() != requester:
                self._note_strange(1)
                gone: list[Any] = [requester, member]
                await self._ask(lambda _, gone=gone: self._unhold(self._held_keys, gone))  # type: ignore[misc]
            else:
                found.append(key)
        return found

    async def unhold(self, key: TransactionKey) -> None:
        """Take a request off the list, unless another one took its place."""
        args: list[Any] = [_requester(key), _member(key)]
        self._note_strange(await self._ask(lambda _: self._unhold(self._held_keys, args)))

    async def backlog(self) -> Backlog:
        """Return how much waits in the store (`Backlog`)."""
        now, until = self._clock().timestamp(), self._held_keys[1]
        return Backlog(
            await self._ask(lambda _: self._count([until], [f"({now}", "+inf"])),
            await self._ask(lambda _: self._count([self._schedule], ["-inf", "+inf"])),
            await self._ask(lambda _: self._count([self._schedule], ["-inf", now])),
        )

    async def note_confirmation(
        self, certificate: bytes, note: ConfirmationNote, keep_until: datetime
    ) -> ConfirmationRecord:
        """Note what a transaction says of a certificate, and return what is known of it then (`Certificates`).

        What this node has seen before is not unsaid by a record that is gone, or that is an older one put back.
        """
        name = f"{self._prefix}:{{certificate}}:{certificate.hex()}"
        while True:
            seen_version, seen = self._seen_record(name)
            stored = await self._ask(lambda _: self._text([name]))
            now = self._clock()
            version, before = 0, ConfirmationRecord()
            if stored is not None:
                try:
                    counted = self._seals.open(stored, "certificate", name)
                    digits, _, octets = counted.partition(b" ")
                    version, before = int(digits), ConfirmationRecord.from_bytes(octets)
                except (NotSealed, ValueError) as error:
                    self._report(name, str(error))
                    raise StoreUnavailable(
                        f"{self.name}: what became of a certificate is lost", rule="R111"
                    ) from error
            is_lost = version < seen_version
            if is_lost:
                self._report(name, f"is version {version}, older than {seen_version}")
                version, before = seen_version, seen
            after = before.after(*note, now)
            lifetime = max(keep_until - now, timedelta(milliseconds=1))
            if after == before and stored is not None and not is_lost:
                self._note_record(name, version, after, lifetime)
                return after
            counted = b"%d %b" % (version + 1, after.to_bytes())
            sealed = self._seals.seal(counted, "certificate", name)
            lifetime_ms = math.ceil(lifetime / timedelta(milliseconds=1))
            args: list[Any] = [stored or b"", sealed, lifetime_ms]
            if await self._ask(lambda _, args=args: self._put_after([name], args)):  # type: ignore[misc]
                self._note_record(name, version + 1, after, lifetime)
                return after

    def _seen_record(self, name: str) -> tuple[int, ConfirmationRecord]:
        version, record, until = self._records.get(name, (0, ConfirmationRecord(), math.inf))
        return (version, record) if self._monotonic() < until else (0, ConfirmationRecord())

    def _note_record(
        self, name: str, version: int, record: ConfirmationRecord, lifetime: timedelta
    ) -> None:
        if version >= self._seen_record(name)[0]:
            self._records.pop(name, None)
            until = self._monotonic() + lifetime.total_seconds()
            self._records[name] = version, record, until
        if len(self._records) > _SEEN_LIMIT:
            self._records.popitem(last=False)

    async def remember(
        self, what: DeviceRecord, key: bytes, text: str, keep_until: datetime
    ) -> None:
        """Remember a text, in the place of the one before."""
        name = self._device_key(what, key)
        sealed = self._seals.seal(text.encode(), what, name)
        lifetime_ms = self._ms_until(keep_until)
        if lifetime_ms > 0:
            await self._ask(lambda _: self._put([name], [sealed, lifetime_ms]))

    async def remember_entry(
        self, what: DeviceRecord, key: bytes, entry: str, *, limit: int, keep_until: datetime
    ) -> None:
        """Add an entry to those that are remembered, unless it is among them."""
        name, lifetime_ms = self._device_key(what, key), self._ms_until(keep_until)
        while lifetime_ms > 0:
            stored, text = await self._device_record(what, name)
            entries = text.split()
            if entry in entries:
                return
            kept = " ".join([*entries, entry][-limit:])
            sealed = self._seals.seal(kept.encode(), what, name)
            args: list[Any] = [stored, sealed, lifetime_ms]
            if await self._ask(lambda _, args=args: self._put_after([name], args)):  # type: ignore[misc]
                return

    async def remembered(self, what: DeviceRecord, key: bytes) -> str:
        """Return the text that is remembered, "" for none; one that is not to be believed forgives nothing."""
        return (await self._device_record(what, self._device_key(what, key)))[1]

    async def _device_record(self, what: DeviceRecord, name: str) -> tuple[bytes, str]:
        """Return what is stored, and the text in it.

        Raises:
            StoreUnavailable: Which requests were taken cannot be read: each of them might come again.
        """
        stored: bytes | None = await self._ask(lambda _: self._text([name]))
        if stored is None:
            return b"", ""
        try:
            return stored, self._seals.open(stored, what, name).decode()
        except NotSealed as error:
            self._report(name, str(error))
            if what is DeviceRecord.requests:
                raise StoreUnavailable(
                    f"{self.name}: which requests of a device were taken is lost ({name})",
                    rule="R29",
                ) from error
            return stored, ""

    def _device_key(self, what: DeviceRecord, key: bytes) -> str:
        return f"{self._prefix}:{what}:{key.hex()}"

    def _ms_until(self, at: datetime) -> int:
        return math.ceil((at - self._clock()) / timedelta(milliseconds=1))

    async def take(self, name: str, rate: Rate, wanted: int, owed: int) -> Taken:
        """Take of a rate that all nodes share (`SharedRates`)."""
        args: list[Any] = [wanted, owed, 1_000_000 / rate.per_second, rate.burst]
        count, wait = await self._ask(lambda _: self._take([f"{self._prefix}:rate:{name}"], args))
        return Taken(count, wait / 1_000_000)

    async def wait(
        self, key: TransactionKey, *, version: int, timeout_seconds: float
    ) -> Transaction | None:
        """Wait until the stored version is no longer `version` (`TransactionStore.wait`)."""
        # Asked again and again instead of subscribed to: a published message that is lost (a
        # reconnect, a failover, a node that dies between writing and publishing) would be an answer
        # that the device never gets. A question costs some 100 microseconds, and few wait.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        hash_key, _ = self._keys(key)
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            stored = await self._ask(lambda _: self._version([hash_key]))
            left_seconds = deadline - loop.time()
            if stored is None:
                return None
            if stored != b"%d" % version or left_seconds <= 0:
                return await self.load(key)
            await asyncio.sleep(min(pause_seconds, left_seconds))
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    async def ping(self) -> None:
        """Check that the store can be written to now."""
        probe = f"{self._prefix}:probe"
        await self._ask(lambda _: self.servers.probe(probe, _PROBE_LIFETIME_MS))

    async def has_our_mark(self, *, leave: bool = True) -> bool:
        """Return whether the nodes that were here before seal by a key that is ours, too.

        It says nothing of single records, each of which has a seal of its own; who can write to Redis can change it.

        Args:
            leave: Whether our mark is made where there is none yet, and put under the first of our keys.
        """
        own = self._seals.seal(_MARKED, "mark", self.mark_key)
        args: list[Any] = [own if leave else b""]
        found: bytes | None = await self._ask(lambda _: self._mark([self.mark_key], args))
        if found is None and self._is_marked:
            self.emptied += 1
        self._is_marked = found is not None or leave
        if found is None or found == own:
            return True
        try:
            self._seals.open(found, "mark", self.mark_key)
        except NotSealed:
            return False
        if leave:
            await self._ask(lambda _: self._remark([self.mark_key], [found, own]))
        return True

    async def close(self) -> None:
        """Release the connections; whatever is asked afterwards is refused."""
        self._closed = True
        await self.servers.end()

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
        return self._ms_until(transaction.expires_at)

    def _sealed(self, hash_key: str, transaction: Transaction) -> list[Any]:
        """Return the fields of a record: version and the sealed transaction.

        Raises:
            StoreUnavailable: It is larger than any node would read.
        """
        version = str(transaction.version)
        octets = packed(transaction.to_fields())
        record = self._seals.seal(octets, "transaction", hash_key, version)
        if len(record) > scripts.RECORD_LIMIT:
            raise StoreUnavailable(f"{self.name}: a transaction of {len(record)} octets")
        return [version, record]

    def _read(
        self,
        hash_key: str,
        reply: Sequence[bytes],
        floor: Age | None,
        key: TransactionKey,
    ) -> Transaction | None:
        """Return a transaction whose seal verifies; None where it is not to be believed.

        Args:
            floor: What was there before Redis was asked: an older one was put back.
            key: What it is to be about.

        Raises:
            StoreUnavailable: A node of another release wrote it.
        """
        transaction = self._opened(hash_key, reply)
        if transaction is None:
            return None
        if transaction.key != key:
            self._report(hash_key, "belongs under another key")
            return None
        if floor is not None and age_of(transaction) < floor:
            began, version = floor
            self._report(
                hash_key,
                f"is version {transaction.version} of {transaction.created_at:%H:%M:%S}, older than "
                f"{version} of {began:%H:%M:%S}",
            )
            return None
        self._note(hash_key, transaction, reply[1])
        return transaction

    def _opened(self, hash_key: str, reply: Sequence[bytes]) -> Transaction | None:
        """Return a transaction whose seal verifies, however old.

        Raises:
            StoreUnavailable: A node of another release wrote it.
        """
        version, record = reply
        try:
            octets = self._seals.open(
                record, "transaction", hash_key, version.decode("ascii", errors="replace")
            )
        except NotSealed as error:
            self._report(hash_key, str(error))
            return None
        try:
            return Transaction.from_fields(unpacked(octets))
        except (ValueError, TypeError) as error:
            raise StoreUnavailable(
                f"{self.name}: a stored transaction cannot be read: {error}"
            ) from error

    def _note(self, hash_key: str, transaction: Transaction, record: bytes) -> None:
        seal, lifetime_ms = record[:SEAL_OCTETS], self._lifetime_ms(transaction)
        self._seen.note(hash_key, transaction, seal, lifetime_ms)

    def _note_strange(self, count: int) -> None:
        if count:
            self._report(
                f"{self._prefix}:", "agenda or list held what no node wrote; dropped", count
            )

    def _report(self, name: str, what: str, count: int = 1) -> None:
        """Tell of what was not believed, at most once in a while."""
        self._unreported += count
        self.not_believed += count
        now = self._monotonic()
        if now - self._reported_at >= _REPORT_SECONDS:
            log.error(
                "store.not_believed",
                store=self.name,
                key=name[:200],
                detail=what,
                count=self._unreported,
            )
            self._reported_at, self._unreported = now, 0

    async def _ask(self, attempt: Callable[[bool], Awaitable[_T]], *, again: bool = False) -> _T:
        """Make an attempt in half the time; if its connection failed, make another and tell it so.

        Redis may have carried out the first one. So the second attempt to write something takes
        for its own what it finds equal to it; to a first attempt, that comes from another node.
        """
        try:
            if self._closed:
                raise StoreUnavailable(f"{self.name}: the store is closed", rule="R95")
            started, durations = perf_counter(), self.answered
            try:
                async with asyncio.timeout(self._timeout_seconds / 2):
                    done = await attempt(again)
            except (RedisError, OSError, RuntimeError):
                durations = self.failed
                raise
            finally:
                durations.add(perf_counter() - started)
            self._watch.answered()
            return done
        # RuntimeError: so uvloop refuses to write to a connection that the peer has reset.
        except (RedisError, OSError, RuntimeError) as error:
            if again or (isinstance(error, ResponseError) and not is_passing(error)):
                what = f"{type(error).__name__}: {error}"
                if isinstance(error, TimeoutError):
                    what = f"no answer within {self._timeout_seconds} seconds"
                self._watch.failed(f"{self.name}: {what}")
                raise StoreUnavailable(f"{self.name}: {what}", rule="R95") from error
        finally:
            if self._closed:  # what was just being connected when the store was closed
                await self.servers.end()
        return await self._ask(attempt, again=True)


def _requester(key: TransactionKey) -> str:
    domain, signer_digest, transaction_id = key.requester
    return f"{transaction_id.hex()} {signer_digest.hex()} {domain}".lstrip()


def _member(key: TransactionKey) -> str:
    """Return a transaction's key as one text; a domain's name comes last, as it may have blanks."""
    return f"{key.transaction_id.hex()} {key.signer_digest.hex()} {key.domain}"


def _key(member: bytes) -> TransactionKey | None:
    """Return the key that a member of schedule or list stands for; None where it is none."""
    try:
        transaction_id, signer_digest, domain = member.decode().split(" ", 2)
        key = TransactionKey(domain, bytes.fromhex(signer_digest), bytes.fromhex(transaction_id))
    except ValueError:
        return None
    return key if _member(key).encode() == member else None


def _lost() -> TransactionInUse:
    return TransactionInUse("what was stored under this transactionID is lost", rule="R95")
