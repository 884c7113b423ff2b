"""What every table has to hold, as the audit trail tells it: line after line, what each act has written.

Lines of releases that wrote less leave some of it open; what they leave open is not compared, and counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from ra_gateway.ca.ledger.backups import BACKUP
from ra_gateway.ca.ledger.sql import operation_key
from ra_gateway.ca.records import CertificateStatus, EntityStatus, Reason

T = TypeVar("T")

Said: TypeAlias = Mapping[str, str]
"""Details of a line."""

_ISSUED, _CONFIRMED = CertificateStatus.issued, CertificateStatus.confirmed
_REVOKED, _REJECTED = CertificateStatus.revoked, CertificateStatus.rejected


class Contradiction(Exception):
    """A line that cannot follow from those before it; the text says why."""


@dataclass(slots=True)
class Certificate:
    """A row of `certificates`, as it has to be; times in seconds since 1970.

    Args:
        is_open: The line was written by an older release, and does not say what is None here.
    """

    status: str
    requester: str
    entity: str
    profile: str
    fingerprint: str
    issued_at: int
    changed_at: int
    is_open: bool
    row: int | None = None
    issuer_id: str | None = None
    confirm_by: int | None = None
    not_after: int | None = None
    revoked_at: int | None = None
    reason: int | None = None
    held_from: str | None = None
    renews: str = ""
    origin: str = ""
    vendor: str = ""
    identity: str = ""


@dataclass(slots=True)
class Registered:
    """A row of `entities` or `authorities`.

    Args:
        is_open: As of `Certificate`: what `facts` does not have is not known.
        blocked_at: When an end entity was blocked last.
    """

    facts: dict[str, str]
    at: int
    is_open: bool = False
    blocked_at: int = 0


@dataclass(slots=True)
class Answered:
    """A row of `operations` with an answer.

    Args:
        confirmation: "" while there is none.
    """

    digest: str
    expires_at: int
    serial: str
    confirmation: str = ""


@dataclass(slots=True)
class CRL:
    """A row of `crls`."""

    at: int
    until: int
    base: int | None
    sha256: str


@dataclass(slots=True)
class Replay:
    """The tables, by what names their rows.

    Args:
        operations: By `sql.operation_key`; of one key the last one.
        open_lines: Lines of older releases, which do not say all.
    """

    certificates: dict[str, Certificate] = field(default_factory=dict)
    operations: dict[bytes, Answered] = field(default_factory=dict)
    entities: dict[str, Registered] = field(default_factory=dict)
    roles: dict[str, Registered] = field(default_factory=dict)
    authorities: dict[str, Registered] = field(default_factory=dict)
    authority_certificates: dict[str, tuple[str, int]] = field(default_factory=dict)
    crls: dict[tuple[str, int], CRL] = field(default_factory=dict)
    open_lines: int = 0
    _waiting: dict[str, bytes] = field(default_factory=dict)

    def apply(self, at: int, actor: str, action: str, subject: str, detail: str) -> None:
        """Take one more line.

        Raises:
            Contradiction: It does not follow from those before; what can be taken of it is.
        """
        try:
            said = json.loads(detail)
            if action == "entity.import":
                self._import(at, said)
            elif action in _ACTS:
                _ACTS[action](self, at, actor, subject, said)
            else:
                raise Contradiction(f"{action!r} is no act that is known")
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Contradiction(f"its details are not those of {action!r}") from None

    def _change_nothing(self, at: int, actor: str, subject: str, said: Said) -> None:
        """Take a line that tells of something that is not in the tables."""

    # --- certificates -----------------------------------------------------------------------------------------

    def _issue(self, at: int, actor: str, serial: str, said: Said) -> None:
        is_open = "issuer" not in said
        self.open_lines += is_open
        confirm_by = _number(said.get("confirm_by"))
        known = self.certificates.get(serial)
        status = _ISSUED if confirm_by is not None or is_open else _CONFIRMED
        self.certificates[serial] = Certificate(
            status, actor, said["entity"], said["profile"], said["fingerprint"], at, at, is_open,
            _number(said.get("row")), said.get("issuer"), confirm_by, _number(said.get("until")),
            renews=said.get("renews", ""), origin=said.get("origin", actor),
            vendor=said.get("vendor", ""), identity=said.get("identity", ""),
        )  # fmt: skip
        self._answer(actor, serial, said)
        self._supersede(said, at)
        if known is not None:
            raise Contradiction("this serial number was issued before")

    def _answer(self, requester: str, serial: str, said: Said) -> None:
        if "operation" in said:
            key = operation_key(requester, bytes.fromhex(said["transaction_id"]))
            self.operations[key] = Answered(said["operation"], int(said["expires"]), serial)
            self._waiting[serial] = key

    def _supersede(self, said: Said, at: int) -> None:
        old = self.certificates.get(said.get("supersedes", ""))
        if old is not None and _is_alive(old, at):
            old.status, old.confirm_by, old.changed_at = CertificateStatus.superseded, None, at

    def _known(self, serial: str) -> Certificate:
        return _found(self.certificates, serial, "this certificate was issued")

    def _settle(self, at: int, _actor: str, serial: str, said: Said, status: str) -> None:
        found = self._known(serial)
        was = found.status
        found.status, found.confirm_by, found.changed_at = status, None, at
        if status == _REJECTED:
            found.revoked_at, found.reason = at, int(Reason.cessationOfOperation)
        else:
            found.revoked_at = None
            self._supersede(said, at)
            if "operation" not in said and found.renews in self.certificates:
                self.certificates[found.renews].is_open = True
        key = self._waiting.pop(serial, None)
        if key in self.operations and "operation" in said:
            self.operations[key].confirmation = said["operation"]
        if was != _ISSUED:
            raise Contradiction(f"the certificate was {was} before, the lines before it say")

    def _revoke(self, at: int, _actor: str, serial: str, said: Said) -> None:
        found, reason = self._known(serial), Reason[said["reason"]]
        was, held = found.status, found.held_from is not None
        if "requester" in said:
            self._answer(said["requester"], serial, said)
        found.held_from = was if reason is Reason.certificateHold else None
        found.status, found.revoked_at, found.changed_at = _REVOKED, at, at
        found.reason = int(reason)
        if reason is not Reason.certificateHold:
            found.confirm_by = None
        if was == _REJECTED or (was == _REVOKED and not held):
            raise Contradiction(f"the certificate was {was} before, the lines before it say")

    def _release(self, at: int, _actor: str, serial: str, said: Said) -> None:
        found = self._known(serial)
        if "requester" in said:
            self._answer(said["requester"], serial, said)
        if found.held_from is None:
            raise Contradiction("the certificate was not on hold, the lines before it say")
        found.status, found.held_from, found.revoked_at = found.held_from, None, None
        found.reason, found.changed_at = int(Reason.removeFromCRL), at

    def _migrate(self, _at: int, _actor: str, _schema: str, said: Said) -> None:
        """Take what a new schema made of certificates: by serial number, JSON of what changed."""
        for serial, text in said.items():
            changed = json.loads(text)
            found = self._known(serial)
            found.entity = changed.get("entity", found.entity)
            found.origin = changed.get("origin", found.origin)

    # --- who is registered ------------------------------------------------------------------------------------

    def _add_entity(self, at: int, _actor: str, name: str, said: Said) -> None:
        known = name in self.entities
        is_open = "subject_key" not in said
        self.open_lines += is_open
        self.entities[name] = Registered(dict(said), at, is_open)
        if known:
            raise Contradiction("an end entity of this name was added before")

    def _import(self, at: int, said: Said) -> None:
        for name, text in said.items():
            facts = json.loads(text) if text.startswith("{") else {"subject": text}
            self._add_entity(at, "", name, facts)

    def _entity(self, name: str) -> Registered:
        found = self.entities.get(name)
        if found is None:
            # An older release said nothing of those that it made itself, for an RA's request.
            self.open_lines += 1
            found = self.entities[name] = Registered({}, 0, is_open=True)
        return found

    def _block_entity(self, at: int, _actor: str, name: str, _said: Said) -> None:
        found = self._entity(name)
        found.facts["status"], found.blocked_at = EntityStatus.blocked.value, at

    def _unblock_entity(self, _at: int, _actor: str, name: str, _said: Said) -> None:
        self._entity(name).facts["status"] = EntityStatus.active.value

    def _open_entity(self, _at: int, _actor: str, name: str, said: Said) -> None:
        facts = self._entity(name).facts
        facts.pop("enroll_until", None)
        if said["until"]:
            until = datetime.fromisoformat(said["until"])
            facts["enroll_until"] = str(int(until.timestamp()))

    def _delete_entity(self, _at: int, _actor: str, name: str, _said: Said) -> None:
        self._entity(name)
        del self.entities[name]

    def _put_role(self, at: int, _actor: str, name: str, said: Said) -> None:
        # Before there was that, no role was for others' devices.
        self.roles[name] = Registered({"others": "0", **said}, at)

    def _delete_role(self, _at: int, _actor: str, name: str, _said: Said) -> None:
        _found(self.roles, name, "there is this role")
        del self.roles[name]

    def _put_authority(self, at: int, _actor: str, name: str, said: Said) -> None:
        known = self.authorities.get(name)
        enabled = "1" if known is None else known.facts["enabled"]
        self.authorities[name] = Registered(
            {"enabled": enabled, **said}, at if known is None else known.at
        )

    def _authority(self, name: str) -> Registered:
        return _found(self.authorities, name, "there is this RA")

    def _enable(self, _at: int, _actor: str, name: str, _said: Said, enabled: str) -> None:
        self._authority(name).facts["enabled"] = enabled

    def _delete_authority(self, _at: int, _actor: str, name: str, _said: Said) -> None:
        self._authority(name)
        del self.authorities[name]
        for fingerprint in [
            found for found, (owner, _) in self.authority_certificates.items() if owner == name
        ]:
            del self.authority_certificates[fingerprint]

    def _add_certificate(self, at: int, _actor: str, name: str, said: Said) -> None:
        self._authority(name)
        self.authority_certificates[said["fingerprint"]] = (name, at)

    def _remove_certificate(self, _at: int, _actor: str, name: str, said: Said) -> None:
        if self.authority_certificates.pop(said["fingerprint"], ("", 0))[0] != name:
            raise Contradiction("no line before it says that the RA has this certificate")

    # --- CRLs -------------------------------------------------------------------------------------------------

    def _publish(self, at: int, _actor: str, issuer_id: str, said: Said) -> None:
        number = int(said["number"])
        known = (issuer_id, number) in self.crls
        self.crls[issuer_id, number] = CRL(
            at, int(said["until"]), _number(said.get("base")), said["sha256"]
        )
        if known:
            raise Contradiction("a CRL of this number was made before")


def _found(rows: Mapping[str, T], key: str, what: str) -> T:
    if key not in rows:
        raise Contradiction(f"no line before it says that {what}")
    return rows[key]


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _is_alive(certificate: Certificate, at: int) -> bool:
    if certificate.not_after is not None and certificate.not_after < at:
        return False
    if certificate.status == _ISSUED:
        return certificate.is_open or (certificate.confirm_by or 0) >= at
    return certificate.status in (_CONFIRMED, CertificateStatus.superseded)


_ACTS: Final[dict[str, Any]] = {
    "issue": Replay._issue,
    "confirm": partial(Replay._settle, status=_CONFIRMED),
    "reject": partial(Replay._settle, status=_REJECTED),
    "revoke": Replay._revoke,
    "release": Replay._release,
    "entity.add": Replay._add_entity,
    "entity.block": Replay._block_entity,
    "entity.unblock": Replay._unblock_entity,
    "entity.open": Replay._open_entity,
    "entity.delete": Replay._delete_entity,
    "role.put": Replay._put_role,
    "role.delete": Replay._delete_role,
    "authority.put": Replay._put_authority,
    "authority.block": partial(Replay._enable, enabled="0"),
    "authority.unblock": partial(Replay._enable, enabled="1"),
    "authority.delete": Replay._delete_authority,
    "authority.certificate.add": Replay._add_certificate,
    "authority.certificate.remove": Replay._remove_certificate,
    "crl": Replay._publish,
    "migrate": Replay._migrate,
    BACKUP: Replay._change_nothing,
}
