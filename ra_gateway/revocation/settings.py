"""How revocation is known: what is set of a trust domain, which imports nothing of what fetches and asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ra_gateway import ldap

_MAX_URL: Final = 2000
_PORTS: Final = {"http": 80, "https": 443, **ldap.PORTS}


class NonceUse(StrEnum):
    """What becomes of nonces, which tell an answer made now from one that is played back."""

    require = "require"  # answers without ours are refused
    send = "send"  # answers made beforehand have none (RFC 5019 4), and count
    off = "off"


@dataclass(frozen=True, slots=True)
class OCSPSettings:
    """How a domain's responders are asked.

    Args:
        url: http or https, of a responder for all of the domain; "" for none.
        from_certificates: Whether those that certificates name are asked, too.
        timeout_seconds: How long a message waits, and for one attempt.
        max_cache_seconds: Longest time an answer is used, whatever its nextUpdate says.
    """

    url: str = ""
    from_certificates: bool = False
    timeout_seconds: float = 3.0
    max_cache_seconds: float = 3600.0
    nonce: NonceUse = NonceUse.send

    @property
    def enabled(self) -> bool:
        """Whether anybody is asked at all."""
        return bool(self.url) or self.from_certificates


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
    crl_paths: tuple[Path, ...] = ()
    crl_urls: tuple[str, ...] = ()
    from_certificates: bool = False
    allowed_hosts: frozenset[str] = frozenset()
    refresh_seconds: float = 3600.0
    timeout_seconds: float = 10.0
    max_crl_bytes: int = 20_000_000
    grace_seconds: float = 0.0
    max_age_seconds: float = 0.0
    crl_cache_path: Path | None = None
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
