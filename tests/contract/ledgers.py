"""What the tests of the ledger issue: operations, intents and certificates."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from ra_gateway.ca.ledger import Ledger
from ra_gateway.ca.records import Intent, Operation
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import from_rfc4514
from tests.support.pki import make_operator_pki

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
