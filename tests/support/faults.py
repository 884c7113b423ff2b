"""Ways to fail at the n-th thing a gateway does outside itself: asking the store, the CA, or the RA's key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from ra_gateway.cmp.algorithms import SignatureAlgorithm
from ra_gateway.cmp.protection import Credential, Signer
from ra_gateway.errors import StoreUnavailable, UpstreamUnavailable
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.ports import CACore, TransactionStore
from ra_gateway.ra.transaction import Transaction, TransactionKey
from ra_gateway.stores.memory import MemoryStore
from tests.support.credentials import cmp_credential
from tests.support.harness import World, make_gateway

T = TypeVar("T")

STORE_CALLS = frozenset({"create", "load", "find", "replace", "wait"})

Strike = Callable[[str, bool], Awaitable[None]]


async def die(name: str, done: bool) -> None:
    """End the running task, as the death of its process would."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def fail(name: str, done: bool) -> None:
    """Raise what an adapter raises when the other side is gone."""
    if name == "exchange":
        raise UpstreamUnavailable("no answer", delivered=done)
    if name == "sign":
        raise RuntimeError("the HSM with slot 3 and PIN 1234 does not answer")
    raise StoreUnavailable("no answer")


@dataclass(slots=True)
class Faults:
    """Counts what a gateway does, and strikes once.

    Args:
        at: Which call to strike, from 1; 0 for none.
        done: Whether the call has its effect before it is struck: only its result is lost.
        lasting: Whether the store stays away from then on.
        strike: What happens.
    """

    at: int = 0
    done: bool = False
    lasting: bool = False
    strike: Strike = die
    calls: list[str] = field(default_factory=list)

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Do a call, or fail at it."""
        self.calls.append(name)
        # Other tasks get their turn around every call, as with a store and a CA on the network.
        await asyncio.sleep(0)
        struck = len(self.calls) == self.at
        gone = self.lasting and 0 < self.at <= len(self.calls) and name in STORE_CALLS
        if (struck or gone) and not (self.done and struck):
            await self.strike(name, False)
        result = await call()
        if struck and self.done:
            await self.strike(name, True)
        await asyncio.sleep(0)
        return result


class ReadOnlyStore(MemoryStore):
    """A store that cannot be written to while it is `gone`."""

    gone = False

    async def replace(self, transaction: Transaction) -> None:
        if self.gone:
            raise StoreUnavailable("the store is gone")
        await super().replace(transaction)


@dataclass(frozen=True, slots=True)
class FaultyStore:
    """A store that fails where its faults say."""

    store: TransactionStore
    faults: Faults

    async def create(
        self, transaction: Transaction, *, repeatable: bool = False
    ) -> Transaction | None:
        return await self.faults.around(
            "create", lambda: self.store.create(transaction, repeatable=repeatable)
        )

    async def load(self, key: TransactionKey) -> Transaction | None:
        return await self.faults.around("load", lambda: self.store.load(key))

    async def find(self, transaction_id: bytes) -> list[Transaction]:
        return await self.faults.around("find", lambda: self.store.find(transaction_id))

    def awaited(self, transaction_id: bytes) -> Transaction | None:
        return self.store.awaited(transaction_id)

    async def replace(self, transaction: Transaction) -> None:
        await self.faults.around("replace", lambda: self.store.replace(transaction))

    async def wait(
        self, key: TransactionKey, *, version: int, timeout_seconds: float
    ) -> Transaction | None:
        return await self.faults.around(
            "wait",
            lambda: self.store.wait(key, version=version, timeout_seconds=timeout_seconds),
        )

    async def ping(self) -> None:
        await self.store.ping()

    async def close(self) -> None:
        await self.store.close()


@dataclass(frozen=True, slots=True)
class FaultyCA:
    """A way to a CA that fails where its faults say, and opens when its gate does."""

    core: CACore
    faults: Faults
    gate: asyncio.Event | None = None

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        answer = await self.faults.around(
            "exchange",
            lambda: self.core.exchange(der, path=path, deadline_seconds=deadline_seconds),
        )
        if self.gate is not None:
            await self.gate.wait()
        return answer

    async def close(self) -> None:
        await self.core.close()


@dataclass(frozen=True, slots=True)
class SignerInside:
    """A key whose signatures are made inside something else, which may wait or fail."""

    signer: Signer
    around: Callable[[Callable[[], Awaitable[bytes]]], Awaitable[bytes]]

    @property
    def algorithm(self) -> SignatureAlgorithm:
        return self.signer.algorithm

    async def sign(self, octets: bytes) -> bytes:
        return await self.around(lambda: self.signer.sign(octets))


def faulty_gateway(world: World, faults: Faults, *, gate: asyncio.Event | None = None) -> Gateway:
    """Another node of a world whose every outside call goes through the faults.

    Args:
        gate: The CA's answers reach this node only when it is set.
    """
    core = FaultyCA(world.endpoint.upstream.core, faults, gate)
    endpoint = replace(world.endpoint, upstream=replace(world.endpoint.upstream, core=core))
    credential: Credential = cmp_credential(world.operator.ra)
    return make_gateway(
        endpoint,
        world.operator,
        FaultyStore(world.store, faults),
        world.clock,
        world.events,
        world.inventory,
        replace(credential, signer=SignerInside(credential.signer, partial(faults.around, "sign"))),
    )
