"""Where a trust domain gets CRLs and OCSP answers from, and what each source has given."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path as FilePath
from typing import Final
from urllib.parse import urlsplit

from ra_gateway import ldap
from ra_gateway.cmp.crl import CRL, ReceivedCRL
from ra_gateway.cmp.names import CanonicalName
from ra_gateway.revocation.fetching import FileState
from ra_gateway.revocation.ocsp import OCSPSettings

_MAX_URL: Final = 2000
_PORTS: Final = {"http": 80, "https": 443, **ldap.PORTS}


class Mode(StrEnum):
    """What a domain makes of a certificate of which nobody can tell whether it is revoked."""

    off = "off"  # nobody is asked
    soft = "soft"  # accepted, and noted in the log
    hard = "hard"  # refused


@dataclass(frozen=True, slots=True)
class RevocationSettings:
    """How a domain's revocation is known.

    Args:
        crl_paths: Files.
        crl_urls: http, https, ldap or ldaps.
        from_certificates: Whether URLs in certificates of the domain are used as well.
        allowed_hosts: "host" or "host:port" such URLs may name.
        refresh_seconds: From one fetch of a URL to the next.
        timeout_seconds: For one fetch.
        grace_seconds: How long after its nextUpdate a CRL is still fresh.
        max_age_seconds: Longest time after its thisUpdate; 0 for what nextUpdate says alone.
        crl_cache_path: Directory where what URLs gave is kept across restarts; None for nowhere.
    """

    mode: Mode = Mode.hard
    crl_paths: tuple[FilePath, ...] = ()
    crl_urls: tuple[str, ...] = ()
    from_certificates: bool = False
    allowed_hosts: frozenset[str] = frozenset()
    refresh_seconds: float = 3600.0
    timeout_seconds: float = 10.0
    max_crl_bytes: int = 20_000_000
    grace_seconds: float = 0.0
    max_age_seconds: float = 0.0
    crl_cache_path: FilePath | None = None
    ocsp: OCSPSettings = field(default_factory=OCSPSettings)

    def allows(self, url: str) -> bool:
        """Tell whether a URL in a certificate may be used."""
        if len(url) > _MAX_URL or not url.isprintable():
            return False
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            return False
        default = _PORTS.get(parts.scheme)
        if default is None or not parts.hostname or "@" in parts.netloc:
            return False
        host = parts.hostname.lower()
        if ":" in host:
            host = f"[{host}]"
        names = {f"{host}:{port or default}"}
        if port in (None, default):
            names.add(host)
        return not names.isdisjoint(self.allowed_hosts)


class SourceKind(StrEnum):
    """What a source gives."""

    crl = "CRL"
    ocsp = "OCSP"


@dataclass(frozen=True, slots=True)
class SourceState:
    """What one source has given: a value for each CRL, one if it gave none, one for each OCSP responder.

    Args:
        issuer: Of the CRL, "" without one.
        this_update, next_update: Of the CRL, or of the newest answer.
        entries: In the CRL; or answers since the start.
        fresh: Whether the CRL, or the newest answer, tells at the moment asked about that a certificate is not
            revoked.
        fetched_at: When it was last got, be it unchanged.
        last_error: Why the last attempt failed; "" when it did not.
        failing_since: First of the attempts that failed without one that succeeded after it.
        parked: Whether it gave CRLs of CAs that are not known yet, but may come along with a message.
    """

    domain: str
    source: str
    issuer: str = ""
    number: int | None = None
    this_update: datetime | None = None
    next_update: datetime | None = None
    entries: int = 0
    fresh: bool = False
    fetched_at: datetime | None = None
    last_error: str = ""
    failing_since: datetime | None = None
    kind: SourceKind = SourceKind.crl
    parked: bool = False


@dataclass(slots=True)
class Source:
    """A file or a URL; `due` and `full_due` are monotonic seconds.

    `restored` tells that what was saved before a restart has been looked at, `saved_digest` what is saved now.
    `parked` are CRLs of CAs that are not known yet, `awaited` the names of such CAs whose CRLs were not kept.
    """

    where: FilePath | str
    due: float = 0.0
    full_due: float = 0.0
    failures: int = 0
    digest: bytes = b""
    file_state: FileState | None = None
    restored: bool = False
    saved_digest: bytes = b""
    crls: tuple[CRL, ...] = ()
    parked: tuple[ReceivedCRL, ...] = ()
    awaited: tuple[CanonicalName, ...] = ()
    fetched_at: datetime | None = None
    last_error: str = ""
    failing_since: datetime | None = None

    def again(self, crls: tuple[CRL, ...]) -> Source:
        """Return it as another configuration begins with it: due at once, with the CRLs that hold there."""
        return replace(
            self,
            due=0.0,
            full_due=0.0,
            failures=0,
            digest=self.digest if crls == self.crls else b"",
            saved_digest=b"",
            crls=crls,
        )
