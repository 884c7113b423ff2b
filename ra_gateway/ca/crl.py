"""CRLs of the issuing CAs: put together, signed, and kept current in the background (RFC 5280 5).

TBSCertList is concatenated here: a builder that copies its list with every entry takes time in the square of what
a large network has revoked. Every issuing CA, active or retired, has full and delta CRLs of its own under its own key;
they cover all its certificates, hence have no IssuingDistributionPoint.

Revocations are dated before they are committed, perhaps by another process. Comparing dates alone would
therefore miss some; what decides is whether a CRL made now would list something else than the newest one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from ra_gateway.ca.extensions import distribution_points, extension_der
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.ledger.revoking import COMMIT_LAG
from ra_gateway.ca.records import Reason, RevokedCertificate, StoredCRL
from ra_gateway.clocks import always_steady
from ra_gateway.cmp import asn1
from ra_gateway.cmp.certificates import Certificate, KeyUsage
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Signer
from ra_gateway.errors import ConfigError, Problem, ServiceFailure, StoreUnavailable

_V2: Final = asn1.encode(1)

_LARGEST_SHARE: Final = 0.1
"""Of the time spent on CRLs, whatever the number of entries: the rest is for requests."""

_LONGEST_PAUSE_SECONDS: Final = 60.0
"""Where that share would have revocations wait for too long."""

_MAX_NUMBER_BITS: Final = 159

_ATTEMPTS: Final = 3
"""To find a free CRL number: there are two kinds of CRL, hence hardly more than two rivals."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.ca")


class CRLIssuer(Protocol):
    """An issuing CA that signs CRLs."""

    @property
    def id(self) -> str:
        """Its key identifier in hexadecimal."""

    @property
    def certificate(self) -> Certificate:
        """Its certificate; has a SubjectKeyIdentifier, and keyUsage cRLSign if any."""

    @property
    def signer(self) -> Signer:
        """Its key."""


@dataclass(frozen=True, slots=True)
class CRLSettings:
    """When CRLs are made.

    Args:
        crl_hours: From one full CRL to the next.
        overlap_hours: How long a full CRL stays valid after its successor is due.
        delta_minutes: From one delta CRL to the next; each is valid for twice as long. 0 makes none, and
            every revocation a full CRL.
        delta_url: Where the delta CRL is, for FreshestCRL; `{issuer}` stands for the issuing CA's key
            identifier. "" leaves the extension out.
        check_seconds: From one look for revocations to the next, and so between two CRLs.
    """

    crl_hours: int = 24
    overlap_hours: int = 24
    delta_minutes: int = 0
    delta_url: str = ""
    check_seconds: float = 5.0

    def interval(self, delta: bool) -> timedelta:
        """Return the time from one CRL to the next."""
        return timedelta(minutes=self.delta_minutes) if delta else timedelta(hours=self.crl_hours)

    def validity(self, delta: bool) -> timedelta:
        """Return the time from thisUpdate to nextUpdate."""
        overlap = self.interval(True) if delta else timedelta(hours=self.overlap_hours)
        return self.interval(delta) + overlap


# --- Encoding -------------------------------------------------------------------------------------------------


def _reason_extensions(reason: Reason) -> bytes:
    # RFC 5280 5.3.1: unspecified should be left out.
    if reason is Reason.unspecified:
        return b""
    return asn1.tlv(0x30, extension_der(OID.reasonCode, asn1.tlv(0x0A, bytes((reason,)))))


_REASONS: Final[Mapping[Reason, bytes]] = {reason: _reason_extensions(reason) for reason in Reason}


def encode_entries(revoked: Iterable[RevokedCertificate]) -> bytes:
    """Return the DER of the entries of a CRL, in an order that depends on nothing but the entries.

    Args:
        revoked: Serial numbers are positive, of at most 20 octets (RFC 5280 4.1.2.2).
    """
    times: dict[datetime, bytes] = {}
    entries = []
    for item in revoked:
        serial = item.serial_number
        revoked_at = item.revoked_at
        time = times.get(revoked_at)
        if time is None:
            time = times[revoked_at] = asn1.time_der(revoked_at)
        octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
        extensions = _REASONS[item.reason]
        # All lengths are below 128 and take one octet; this is the one loop that must not call `asn1.tlv`.
        size = 2 + len(octets) + len(time) + len(extensions)
        entries.append(
            b"\x30%c\x02%c%b%b%b" % (size, len(octets), octets, time, extensions),
        )
    entries.sort()
    return b"".join(entries)


@dataclass(frozen=True, slots=True)
class CRLContent:
    """What a CRL is going to say.

    Args:
        number: CRLNumber.
        base_number: None for a full CRL.
        this_update, next_update: Aware UTC, whole seconds.
        entries: As of `encode_entries`.
        freshest_url: For FreshestCRL; "" leaves it out.
    """

    number: int
    base_number: int | None
    this_update: datetime
    next_update: datetime
    entries: bytes
    freshest_url: str = ""

    def tbs_der(self, issuer: Certificate, algorithm_der: bytes) -> bytes:
        """Return the TBSCertList.

        Args:
            issuer: The CA's certificate; has a SubjectKeyIdentifier.
            algorithm_der: AlgorithmIdentifier of the signature.
        """
        return asn1.tlv(
            0x30,
            _V2,
            algorithm_der,
            issuer.subject_der,
            asn1.time_der(self.this_update),
            asn1.time_der(self.next_update),
            # RFC 5280 5.1.2.6: absent when there are none.
            asn1.tlv(0x30, self.entries) if self.entries else b"",
            asn1.tlv(0xA0, asn1.tlv(0x30, *self._extensions(issuer))),
        )

    def _extensions(self, issuer: Certificate) -> list[bytes]:
        key_identifier = asn1.tlv(0x80, issuer.subject_key_identifier or b"")
        found = [
            extension_der(OID.authorityKeyIdentifier, asn1.tlv(0x30, key_identifier)),
            extension_der(OID.cRLNumber, asn1.encode(self.number)),
        ]
        if self.base_number is not None:
            found.append(
                extension_der(OID.deltaCRLIndicator, asn1.encode(self.base_number), critical=True)
            )
        elif self.freshest_url:  # RFC 5280 5.2.6: not in delta CRLs
            found.append(extension_der(OID.freshestCRL, distribution_points(self.freshest_url)))
        return found


# --- Publishing -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Newest:
    """The newest CRLs of an issuing CA."""

    full: StoredCRL | None
    delta: StoredCRL | None

    def of(self, delta: bool) -> StoredCRL | None:
        return self.delta if delta else self.full

    def next_number(self, now: datetime) -> int:
        """Return the next of the one sequence that full and delta CRLs share (RFC 5280 5.2.3).

        Raises:
            ServiceFailure: There is none of at most 20 octets.
        """
        numbers = [crl.number for crl in (self.full, self.delta) if crl is not None]
        number = max([number_at(now), *(known + 1 for known in numbers)])
        if number.bit_length() > _MAX_NUMBER_BITS:
            raise ServiceFailure(
                "the next CRL number would have more than 20 octets", rule="RFC 5280 5.2.3"
            )
        return number


def number_at(now: datetime) -> int:
    """Return a CRL number that nobody has reached so far with a CRL in every hour.

    The CA may have been another product's, or its files or its ledger may be of an old backup: then nothing here
    knows the last number. Processes that start together get the same one.
    """
    return int(now.timestamp()) // 3600


class CRLPublisher:
    """Makes CRLs when they are due, and when there is something new to say.

    Args:
        issuers: All issuing CAs whose certificates may still be valid, retired ones too.
        ledger: Knows what is revoked and keeps the CRLs; other processes may use the same one.
        clock: Returns aware UTC.
        steady: Whether the clock can be believed for what cannot be undone; while it cannot, no CRL is made.
        before: What it takes the place of: what that one served is served on while the ledger does not answer.

    Raises:
        ConfigError: An issuing CA may not or cannot sign CRLs.
    """

    def __init__(
        self,
        issuers: Sequence[CRLIssuer],
        ledger: Ledger,
        clock: Callable[[], datetime],
        settings: CRLSettings,
        *,
        steady: Callable[[], bool] = always_steady,
        before: CRLPublisher | None = None,
    ) -> None:
        self._steady = steady
        _require_crl_signers(issuers)
        self._issuers = {issuer.id: issuer for issuer in issuers}
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._publishing = {issuer.id: asyncio.Lock() for issuer in issuers}
        self._reading = {issuer.id: asyncio.Lock() for issuer in issuers}
        self._shown: dict[str, datetime | None] = {}
        """Of each issuing CA, the date of the newest revocation that its CRLs have been compared with."""
        self._newest: dict[str, _Newest] = {}
        self._current: dict[tuple[str, bool], tuple[float, StoredCRL | None]] = {}
        """What is served, and until when (of the loop's clock) without another look."""
        if before is not None:
            self._newest = {
                name: crl for name, crl in before._newest.items() if name in self._issuers
            }
            self._current = {
                at: crl for at, crl in before._current.items() if at[0] in self._issuers
            }

    async def current(self, issuer_id: str, *, delta: bool = False) -> StoredCRL | None:
        """Return the newest CRL of an issuing CA, None if there is none or the CA is not known.

        What another process published is seen after `check_seconds` at the latest. While the ledger does
        not answer, the last one that was read is returned: it is signed and says until when it holds.

        Raises:
            StoreUnavailable: The ledger does not answer, and none was read so far.
        """
        if issuer_id not in self._issuers:
            return None
        # One at a time: after a pause, a thousand clients must not each have a large CRL read for them.
        async with self._reading[issuer_id]:
            key = (issuer_id, delta)
            moment = asyncio.get_running_loop().time()
            known = self._current.get(key)
            if known is not None and moment < known[0]:
                return known[1]
            try:
                crl = await self._ledger.newest_crl(issuer_id, delta=delta)
            except StoreUnavailable:
                if known is None or known[1] is None:
                    raise
                crl = known[1]
            self._current[key] = (moment + self._settings.check_seconds, crl)
            return crl

    def newest(self) -> Iterator[tuple[StoredCRL, datetime]]:
        """Yield the newest CRLs as far as they were looked at here, and when the next one is due."""
        for found in self._newest.values():
            for delta in (False, True):
                if (crl := found.of(delta)) is not None:
                    yield crl, crl.this_update + self._settings.interval(delta)

    async def publish(self, issuer: CRLIssuer, *, delta: bool = False) -> StoredCRL:
        """Make a CRL now, due or not, and return it, or the one that another process made meanwhile.

        A delta CRL is relative to the newest full one; where there is none, that is made first.

        Raises:
            StoreUnavailable: The ledger does not answer.
            ServiceFailure: The key cannot be used; or other processes take every number.
        """
        async with self._publishing[issuer.id]:
            newest = await self._read_newest(issuer.id)
            if delta and newest.full is None:
                await self._publish(issuer, newest, delta=False)
                newest = await self._read_newest(issuer.id)
            return await self._publish(issuer, newest, delta=delta)

    async def run(self) -> None:
        """Keep all CRLs current until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self.refresh()
            except StoreUnavailable as error:
                log.warning("crl", outcome="delayed", detail=error.detail)
            except Exception:
                # A bug. With a loop that ends, revocations would go unseen, and after the last nextUpdate
                # nobody would believe any certificate.
                log.exception("crl", outcome="failed")
            pause = min((loop.time() - started) / _LARGEST_SHARE, _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(max(self._settings.check_seconds, pause))

    async def refresh(self) -> None:
        """Make every CRL that is due or has something new to say, at most one of each issuing CA.

        One issuing CA that cannot sign does not stop the others.

        Raises:
            StoreUnavailable: The ledger does not answer.
        """
        if not self._steady():
            return  # a CRL of tomorrow would be believed until then
        now = self._clock()
        await self._ledger.sweep(now)
        for issuer in self._issuers.values():
            # Nobody could verify a CRL of an expired CA, and nothing it issued is valid.
            if issuer.certificate.valid_at(now):
                try:
                    await self._refresh(issuer, now)
                except StoreUnavailable:
                    raise
                except ServiceFailure as error:
                    log.error(
                        "crl",
                        issuer_id=issuer.id,
                        outcome="failed",
                        rule=error.rule,
                        detail=error.detail,
                    )

    async def _refresh(self, issuer: CRLIssuer, now: datetime) -> None:
        # Read before the entries are: a revocation that comes in between is looked for again.
        changed_at = await self._ledger.last_revocation_at(issuer.id)
        newest = self._newest.get(issuer.id)
        is_settled = (
            issuer.id in self._shown
            and self._shown[issuer.id] == changed_at
            and (changed_at is None or now - changed_at > COMMIT_LAG)
        )
        if newest is not None and is_settled and self._due(newest, now) is None:
            return
        async with self._publishing[issuer.id]:
            newest = await self._read_newest(issuer.id)
            delta = self._due(newest, now)
            if delta is None and await self._has_news(issuer, newest):
                delta = self._has_deltas
            if delta is not None:
                await self._publish(issuer, newest, delta=delta)
        # Whichever CRL was made, or was not because it would say the same, shows all that was there to be read.
        self._shown[issuer.id] = changed_at

    @property
    def _has_deltas(self) -> bool:
        return self._settings.delta_minutes > 0

    def _due(self, newest: _Newest, now: datetime) -> bool | None:
        """Return which kind of CRL is due: False for a full one, True for a delta CRL, None for neither."""
        full, delta = newest.full, newest.delta
        if full is None or now >= full.this_update + self._settings.interval(False):
            return False
        # The clock was set back: nobody believes that CRL yet, and a delta relative to it would show nothing new.
        if full.this_update > now + COMMIT_LAG:
            return False
        if self._has_deltas and (
            delta is None
            or delta.base_number != full.number
            or now >= delta.this_update + self._settings.interval(True)
        ):
            return True
        return None

    async def _has_news(self, issuer: CRLIssuer, newest: _Newest) -> bool:
        """Return whether a CRL made now would list something else than the newest one."""
        crl = newest.of(self._has_deltas)
        assert crl is not None  # it would be due
        entries = await self._entries(issuer, newest, crl.this_update, delta=self._has_deltas)
        content = CRLContent(
            crl.number,
            crl.base_number,
            crl.this_update,
            crl.next_update,
            entries,
            self._freshest_url(issuer),
        )
        tbs_der = content.tbs_der(issuer.certificate, issuer.signer.algorithm.der)
        return not asn1.inner(crl.der).startswith(tbs_der)

    async def _entries(
        self, issuer: CRLIssuer, newest: _Newest, now: datetime, *, delta: bool
    ) -> bytes:
        full = newest.full
        if full is None:
            # The first one, which also shows what has expired before it: no CRL did so far.
            at, since = issuer.certificate.not_before, None
        elif delta:
            at, since = full.this_update, full.this_update - COMMIT_LAG
        else:
            # RFC 5280 3.3: an entry stays until a scheduled CRL after the certificate's expiry has shown it.
            at, since = min(full.this_update, now - self._settings.interval(False)), None
        revoked = await self._ledger.revoked(issuer.id, at=at, since=since)
        return await asyncio.to_thread(encode_entries, revoked)

    async def _publish(self, issuer: CRLIssuer, newest: _Newest, *, delta: bool) -> StoredCRL:
        for _ in range(_ATTEMPTS):
            crl = await self._make(issuer, newest, delta=delta)
            if await self._ledger.store_crl(crl):
                break
            newest = await self._read_newest(issuer.id)
            rival = newest.of(delta)
            if rival is not None and rival.number >= crl.number:
                crl = rival
                break
        else:
            raise ServiceFailure(f"no CRL number is free for {issuer.certificate.subject}")
        full, other = (newest.full, crl) if delta else (crl, newest.delta)
        self._newest[issuer.id] = _Newest(full, other)
        self._current.pop((issuer.id, delta), None)
        return crl

    async def _make(self, issuer: CRLIssuer, newest: _Newest, *, delta: bool) -> StoredCRL:
        now = self._clock().replace(microsecond=0)
        base = newest.full if delta else None
        entries = await self._entries(issuer, newest, now, delta=delta)
        content = CRLContent(
            newest.next_number(now),
            base.number if base else None,
            now,
            now + self._settings.validity(delta),
            entries,
            self._freshest_url(issuer),
        )
        der = await _sign(content, issuer)
        return StoredCRL(
            issuer.id,
            content.number,
            content.base_number,
            content.this_update,
            content.next_update,
            der,
        )

    def _freshest_url(self, issuer: CRLIssuer) -> str:
        if not self._has_deltas:
            return ""
        return self._settings.delta_url.replace("{issuer}", issuer.id)

    async def _read_newest(self, issuer_id: str) -> _Newest:
        full = await self._ledger.newest_crl(issuer_id, delta=False)
        # Also where there are none any more: they took their share of the numbers.
        delta = await self._ledger.newest_crl(issuer_id, delta=True)
        self._newest[issuer_id] = newest = _Newest(full, delta)
        return newest


async def _sign(content: CRLContent, issuer: CRLIssuer) -> bytes:
    algorithm_der = issuer.signer.algorithm.der
    tbs_der = content.tbs_der(issuer.certificate, algorithm_der)
    signature = await issuer.signer.sign(tbs_der)
    return asn1.tlv(0x30, tbs_der, algorithm_der, asn1.tlv(0x03, b"\x00", signature))


def _require_crl_signers(issuers: Sequence[CRLIssuer]) -> None:
    problems = []
    for issuer in issuers:
        certificate = issuer.certificate
        usage = certificate.key_usage
        if certificate.subject_key_identifier is None:
            wrong = "has no SubjectKeyIdentifier"
        elif usage is not None and KeyUsage.cRLSign not in usage:
            wrong = "has a keyUsage without cRLSign"
        else:
            continue
        problems.append(
            Problem(
                "ca.directory_path",
                f"the issuing CA's certificate of {certificate.subject} {wrong}",
                "Have it issued anew by the root, as `ra-gateway ca create` does",
            )
        )
    if problems:
        raise ConfigError(problems)
