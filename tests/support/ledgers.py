"""What the tests of the ledger issue: operations, intents and certificates."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from ra_gateway.ca.crl import CRLPublisher, CRLSettings
from ra_gateway.ca.ledger.ledger import Ledger, LedgerLocation, open_ledger
from ra_gateway.ca.records import (
    CertificateStatus,
    EndEntity,
    Intent,
    Operation,
    Privilege,
    Reason,
    Role,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import from_rfc4514
from tests.support.desk import Clock
from tests.support.empty_ledger import new_ledger
from tests.support.pki import OperatorPKI, make_operator_pki
from tests.support.status import StatusCA, issuing_ca

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
ISSUER_ID: Final = "ab" * 20
UNTIL: Final = NOW + timedelta(days=365)

_pki: Final = make_operator_pki("Example Operator")
_numbers: Final = itertools.count(1000)


def subject(name: str) -> bytes:
    """Return the DER of a base station's name."""
    return from_rfc4514(f"CN={name},O=Example Operator")


def operation(number: int = 0, **changes: Any) -> Operation:
    """Return an operation of the RA that waits for a confirmation; number 0 is a new one at each call."""
    number = number or next(_numbers)
    usual = Operation(
        requester="ra1",
        transaction_id=number.to_bytes(16, "big"),
        request_digest=b"digest",
        body_type=0,
        cert_req_id=0,
        response_nonce=b"nonce",
        confirm_by=NOW + timedelta(seconds=300),
        expires_at=NOW + timedelta(seconds=900),
        serial_number=1 << 100 | number,
        answer=b"answer",
    )
    return replace(usual, **changes)


def intent(name: str = "enb1", key: str = "", **changes: Any) -> Intent:
    """Return an intent for a base station; its key has the base station's name unless another is given."""
    usual = Intent(
        subject_der=subject(name),
        issuer_id=ISSUER_ID,
        profile="ne_ipsec",
        spki_digest=sha256((key or name).encode()).digest(),
    )
    return replace(usual, **changes)


@lru_cache(maxsize=1024)
def certificate(serial_number: int, until: datetime = UNTIL) -> Certificate:
    """Return a certificate; the ledger believes whoever issued it, so that its name may be anybody's."""
    made = _pki.device("enb", serial_number=serial_number, not_after=until)
    return Certificate.from_der(made.der)


async def issue(
    ledger: Ledger,
    name: str = "enb1",
    *,
    key: str = "",
    until: datetime = UNTIL,
    now: datetime = NOW,
    confirmed: bool = True,
    revoke_superseded: bool = False,
    changes: dict[str, Any] | None = None,
    **intent_changes: Any,
) -> Operation:
    """Have a certificate issued, and confirmed; return its operation."""
    item = operation(**(changes or {}))
    taken = await ledger.reserve(item, intent(name, key, **intent_changes), now)
    assert taken is None
    stored = await ledger.store(
        item, certificate(item.serial_number, until), now, revoke_superseded=revoke_superseded
    )
    if confirmed and item.confirm_by is not None:
        done = await ledger.confirm(
            stored,
            accepted=True,
            digest=b"confirmation",
            answer=b"pkiConf",
            now=now,
            revoke_superseded=revoke_superseded,
        )
        assert done is not None
        return done
    return stored


CRLS: Final = CRLSettings(delta_minutes=60)


@asynccontextmanager
async def opened(where: LedgerLocation) -> AsyncIterator[Ledger]:
    if isinstance(where, str):
        ledger = open_ledger(where)
        await ledger.migrate()
    else:
        ledger = await new_ledger(where)
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


async def fill(ledger: Ledger, operator: OperatorPKI) -> StatusCA:
    """Put something into every table: certificates of every status first, in this order.

    Serial numbers: 0x100 reserved, 0x101 issued, 0x102 confirmed, 0x103 revoked, 0x104 on hold, 0x105 released,
    0x106 rejected; full CRL and delta CRL.
    """
    ca = StatusCA(ledger, Clock(NOW), operator, issuing_ca(operator.issuing))
    statuses = [CertificateStatus.reserved, CertificateStatus.issued]
    for number in range(7):
        status = statuses[number] if number < 2 else CertificateStatus.confirmed
        if number == 6:
            status = CertificateStatus.issued
            ca.clock.advance(minutes=-10)
        credential = await ca.issue(status=status, serial_number=0x100 + number)
        if number == 6:
            ca.clock.advance(minutes=10)
            await ledger.sweep(NOW)
        if number == 3:
            await ca.revoke(credential, Reason.keyCompromise)
        if number in (4, 5):
            await ca.revoke(credential, Reason.certificateHold)
        if number == 5:
            await ca.revoke(credential, Reason.removeFromCRL)
    registry = ledger.registry
    entity = EndEntity("Köln 1", "CN=köln-1,O=Operator", ("dns:a.example",), "seg", "acme", "SN1")
    await registry.add_entity(entity, "operator", NOW)
    await registry.put_role(Role("ra", frozenset(Privilege), ("ne_ipsec",)), "operator", NOW)
    await registry.put_authority("gateway", "ra", "operator", NOW)
    certificate = operator.issuing.issue("CN=ra,O=X").der
    await registry.add_authority_certificate("gateway", certificate, "operator", NOW)
    ca.clock.advance(minutes=2)
    publisher = CRLPublisher([ca.issuing], ledger, ca.clock, CRLS)
    await publisher.publish(ca.issuing)
    ca.clock.advance(minutes=2)
    await publisher.publish(ca.issuing, delta=True)
    return ca
