"""Changing what is stored of a transaction: the one loop of compare and set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ra_gateway.errors import StaleTransaction, StoreUnavailable
from ra_gateway.events import (
    CertificateConfirmed,
    CertificateIssued,
    CertificatesWithdrawn,
    Component,
    EventSink,
    Fact,
    TransactionChanged,
)
from ra_gateway.ra.ports import TransactionStore
from ra_gateway.ra.transaction import State, Transaction, TransactionKey

Step = Callable[[Transaction], Transaction]


@dataclass(frozen=True, slots=True)
class Overtaken:
    """Somebody else has changed a transaction first.

    Args:
        live: The transaction as it is stored now, None where it has expired.
    """

    live: Transaction | None


async def change(
    store: TransactionStore,
    sink: EventSink,
    before: Transaction,
    step: Step,
    *,
    while_: Callable[[Transaction], bool] | None = None,
) -> Transaction | Overtaken:
    """Store what an event makes of a transaction, unless another node was faster, and tell what became of it.

    Args:
        step: What the event makes of it, out of `machine`.
        while_: Tells whether the event still is one for the transaction as somebody else has left it: then it is tried
            on that one. By default any change made meanwhile comes before it.

    Returns:
        The transaction as it is stored now; `Overtaken` where it was not changed.

    Raises:
        StoreUnavailable: The store cannot be asked.
    """
    while True:
        after = step(before)
        try:
            await store.replace(after)
        except StaleTransaction:
            live = await store.load(before.key)
            if live is None or while_ is None or not while_(live):
                return Overtaken(live)
            before = live
        else:
            if after.state is not before.state:
                sink(changed(after))
                if (fact := _fact(after)) is not None:
                    sink(fact)
            return after


def changed(after: Transaction) -> TransactionChanged:
    """Return the fact that a transaction has its state from now on; told of a new one by whoever stored it."""
    return TransactionChanged(after.key.transaction_id.hex(), after.upstream, after.state)


def _fact(after: Transaction) -> Fact | None:
    """Return what a transaction's new state says of its certificate, None for nothing."""
    told = Component.gateway, after.key.transaction_id.hex(), after.certificate_der, after.upstream
    match after.state:
        case State.ISSUED | State.GRANTED:
            return CertificateIssued(*told)
        case State.CONFIRMED:
            return CertificateConfirmed(*told)
        case State.WITHDRAWN:
            by, transaction_id, certificate_der, upstream = told
            rejected = after.confirmation is not None and not after.confirm_status
            return CertificatesWithdrawn(by, (certificate_der,), rejected, transaction_id, upstream)
        case _:
            return None


async def load(store: TransactionStore, key: TransactionKey) -> Transaction:
    """Return a transaction that was there a moment ago.

    Raises:
        StoreUnavailable: It has expired, or the store cannot be asked.
    """
    return require(await store.load(key))


def require(found: Transaction | None) -> Transaction:
    """Return a transaction that was there a moment ago.

    Raises:
        StoreUnavailable: It has expired.
    """
    if found is None:
        raise StoreUnavailable("the transaction expired meanwhile")
    return found
