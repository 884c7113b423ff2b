"""What of each fact becomes a record of the audit trail: who, what, whom it concerns, and the facts of it.

Not recorded is `TransactionChanged`: which states a transaction went through follows from what it was asked, what was
forwarded and what it was answered. A record holds no secret, as no fact does, and its texts are bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, NamedTuple

from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.errors import MalformedMessage, printable
from ra_gateway.events import (
    AnswerLost,
    CertificateConfirmed,
    CertificateIssued,
    CertificatesWithdrawn,
    Component,
    ConfigurationReloaded,
    CredentialChanged,
    CRLPublished,
    Fact,
    HTTPRefused,
    InventoryChanged,
    InventoryRefused,
    MessageForwarded,
    PersonActed,
    ReloadRefused,
    RequestHandled,
    ServiceStarted,
    StoreFound,
    StoreLost,
    TrustChanged,
    UpstreamDown,
    UpstreamFailed,
    UpstreamUp,
)

MOST_CHARACTERS: Final = 1024
"""Of a text in a record."""

_MOST_LISTED: Final = 32
"""Of a list in one record; how many there were is said behind them."""


class Record(NamedTuple):
    """What is to be appended.

    Args:
        at: Milliseconds since 1970, UTC.
        actor: Who did it: a device by its subject, a service, a person as "operator:NAME".
        subject: Whom or what it was done to or for: a name, "" for nobody.
        detail: Facts by the names of the log's fields, none of them empty.
    """

    at: int
    actor: str
    action: str
    subject: str
    detail: dict[str, str]


class Said(NamedTuple):
    """What a fact says."""

    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]


def record_of(at: int, fact: Fact, node: str) -> Record:
    """Return the record of a fact out of `RECORDED`.

    Args:
        node: Which process tells it.
    """
    said = RECORDED[type(fact)](fact)
    detail = {"node": node}
    for name, value in said.detail.items():
        if (shown := _text(value)) != "":
            detail[name] = shown
    return Record(at, _short(said.actor), said.action, _short(said.subject), detail)


def lost(at: int, count: int, node: str) -> Record:
    """Return the record that stands in the place of those that there was no room for."""
    return Record(at, Component.gateway, "audit.lost", "", {"records": str(count), "node": node})


def _short(text: str) -> str:
    return printable(text, MOST_CHARACTERS)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        some = "; ".join(printable(str(item), 256) for item in value[:_MOST_LISTED])
        more = f"; and {len(value) - _MOST_LISTED} more" if len(value) > _MOST_LISTED else ""
        return _short(some) + more
    if isinstance(value, float):
        return f"{value:.3f}"
    return _short(str(value))


_OF_REQUEST: Final = (
    "transaction_id",
    "endpoint",
    "peer",
    "body_type",
    "outcome",
    "domain",
    "signer",
    "signer_fingerprint",
    "serial_number",
    "upstream",
    "rule",
    "detail",
    "quirks",
    "operation",
    "batch",
    "requester",
    "entity",
    "messages",
    "duration_ms",
)


def _request(fact: RequestHandled) -> Said:
    detail: dict[str, Any] = {name: getattr(fact, name) for name in _OF_REQUEST}
    if fact.fail_info is not None:
        detail["fail_info"] = fact.fail_info.name
    if fact.bug is not None:
        detail["bug"] = type(fact.bug).__name__
    if fact.stages:
        detail["stages_ms"] = " ".join(
            f"{stage}={seconds * 1000:.2f}" for stage, seconds in fact.stages
        )
    actor = fact.signer or fact.requester or (f"peer:{fact.peer}" if fact.peer else fact.by)
    action = "message" if fact.by is Component.gateway else "ca.message"
    return Said(actor, action, fact.subject or fact.entity, detail)


def _forwarded(fact: MessageForwarded) -> Said:
    detail = {
        "transaction_id": fact.transaction_id,
        "upstream": fact.upstream,
        "body_type": fact.body_type,
        "domain": fact.domain,
        "signer": _certificate(fact.signer_der).get("subject", ""),
        "message_sha256": fact.digest,
    }
    return Said(Component.gateway, "forward", "", detail)


@lru_cache(maxsize=512)  # of an enrolment, each is in several records
def _certificate(der: bytes) -> Mapping[str, str]:
    if der:
        with suppress(MalformedMessage):
            found = load_certificate(der, loosely=True)
            return {
                "subject": found.subject,
                "issuer": found.issuer,
                "serial_number": f"{found.serial_number:x}",
                "not_after": found.not_after.isoformat(),
                "certificate_sha256": found.fingerprint.hex(),
            }
    return {}


def _of_certificate(action: str) -> Callable[[Any], Said]:
    def said(fact: CertificateIssued | CertificateConfirmed) -> Said:
        found = dict(_certificate(fact.certificate_der))
        subject = found.pop("subject", "")
        detail = {"transaction_id": fact.transaction_id, "upstream": fact.upstream, **found}
        return Said(fact.by, action, subject, detail)

    return said


def _withdrawn(fact: CertificatesWithdrawn) -> Said:
    found = [_certificate(der) for der in fact.certificates[:_MOST_LISTED]]
    detail: dict[str, Any] = {
        "transaction_id": fact.transaction_id,
        "upstream": fact.upstream,
        "rejected": fact.rejected,
        "certificates": len(fact.certificates),
        "serial_number": " ".join(item.get("serial_number", "?") for item in found),
    }
    return Said(fact.by, "withdraw", found[0].get("subject", "") if found else "", detail)


def _told(
    action: str, *names: str, actor: str = Component.gateway, subject: str = ""
) -> Callable[[Any], Said]:
    """Return what makes a record out of fields of a fact that have the names of the detail.

    Args:
        subject: Name of the field that has it.
    """

    def said(fact: Any) -> Said:
        detail = {name: getattr(fact, name) for name in names}
        by = getattr(fact, "by", actor)
        return Said(str(by), action, str(getattr(fact, subject)) if subject else "", detail)

    return said


def _upstream_failed(fact: UpstreamFailed) -> Said:
    detail = {
        "transaction_id": fact.transaction_id,
        "fail_info": fact.fail_info.name,
        "rule": fact.rule,
        "detail": fact.detail,
    }
    return Said(Component.gateway, "upstream.failed", fact.upstream, detail)


def _acted(fact: PersonActed) -> Said:
    return Said(fact.actor, fact.action, fact.subject, dict(fact.detail))


RECORDED: Final[Mapping[type, Callable[[Any], Said]]] = {
    RequestHandled: _request,
    MessageForwarded: _forwarded,
    CertificateIssued: _of_certificate("issue"),
    CertificateConfirmed: _of_certificate("confirm"),
    CertificatesWithdrawn: _withdrawn,
    AnswerLost: _told(
        "answer.lost",
        *("transaction_id", "upstream", "domain", "key_sha256", "asked_at", "detail"),
        subject="subject",
    ),
    UpstreamFailed: _upstream_failed,
    UpstreamDown: _told("upstream.down", "detail", subject="upstream"),
    UpstreamUp: _told("upstream.up", "down_seconds", subject="upstream"),
    StoreLost: _told("store.down", "detail"),
    StoreFound: _told("store.up", "lost_seconds"),
    CRLPublished: _told("crl", "number", "base_number", "next_update", subject="issuer_id"),
    CredentialChanged: _told("credential", "serial_number", "not_after", subject="subject"),
    InventoryChanged: _told("inventory", "devices", "added", "changed", "removed"),
    InventoryRefused: _told("inventory.refused", "devices", "problems"),
    ConfigurationReloaded: _told("reload", "digest", "changed"),
    ReloadRefused: _told("reload.refused", "problems"),
    TrustChanged: _told("trust", "added", "removed", subject="domain"),
    ServiceStarted: _told("start", "version", "digest"),
    HTTPRefused: _told("http.refused", "listener", "peer", "method", "path", "status", "reason"),
    PersonActed: _acted,
}
"""Every fact that becomes a record."""
