"""A vendor's factory: root, sub-CA, and base stations that leave it with a key and a certificate."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.protection import Credential
from ra_gateway.keys import (
    KEY_KINDS,
    KeySigner,
    sign_certificate,
    write_certificates,
    write_private_key,
)

_FACTORY_YEARS: Final = 20
"""Vendor certificates outlive their base stations: nobody goes to the mast to renew one."""


@dataclass(frozen=True, slots=True)
class Vendor:
    """A manufacturer with its PKI.

    Args:
        name: Organisation in every subject.
        key_kind: Of every key, out of `ra_gateway.keys.KEY_KINDS`.
    """

    name: str
    key_kind: str
    root: Certificate
    root_key: Any
    sub: Certificate
    sub_key: Any
    clock: Callable[[], datetime]

    @classmethod
    def found(cls, name: str, *, clock: Callable[[], datetime], key_kind: str = "p256") -> Vendor:
        """Make a root and a sub-CA."""
        root_key, sub_key = KEY_KINDS[key_kind](), KEY_KINDS[key_kind]()
        now = clock()
        root_name = _subject(name, f"{name} Root CA")
        sub_name = _subject(name, f"{name} Device CA")
        root = _issue(root_name, root_key, root_name, root_key, now, ca_below=1)
        sub = _issue(sub_name, sub_key, root_name, root_key, now, ca_below=0)
        return cls(name, key_kind, root, root_key, sub, sub_key, clock)

    def make_device(self, host: str) -> tuple[Credential, Any]:
        """Make a base station, with its FQDN as CN and dNSName (TS 33.310 9.4.4).

        Args:
            host: First label of the FQDN, in the vendor's domain.

        Returns:
            Its credential and its private key.
        """
        key = KEY_KINDS[self.key_kind]()
        fqdn = f"{host.lower()}.{self.domain}"
        issuer = _subject(self.name, f"{self.name} Device CA")
        subject = _subject(self.name, fqdn)
        certificate = _issue(subject, key, issuer, self.sub_key, self.clock(), dns_names=(fqdn,))
        return Credential(certificate, (self.sub,), KeySigner(key)), key

    @property
    def domain(self) -> str:
        """DNS domain of its base stations, such as acme-radio.example."""
        return f"{re.sub('[^a-z0-9]+', '-', self.name.lower()).strip('-')}.example"

    def write(self, directory: Path) -> None:
        """Write root.pem, sub.pem and sub.key.

        Raises:
            FileExistsError: One of them is there already.
        """
        write_certificates(directory / "root.pem", [self.root])
        write_certificates(directory / "sub.pem", [self.sub])
        write_private_key(directory / "sub.key", self.sub_key)


def _subject(organisation: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name),
        ]
    )


def _issue(
    subject: x509.Name,
    private_key: Any,
    issuer: x509.Name,
    issuer_key: Any,
    now: datetime,
    *,
    ca_below: int | None = None,
    dns_names: Sequence[str] = (),
) -> Certificate:
    return sign_certificate(
        subject,
        private_key,
        issuer,
        issuer_key,
        not_before=now - timedelta(minutes=5),
        not_after=now + timedelta(days=365 * _FACTORY_YEARS),
        path_length=ca_below,
        dns_names=dns_names,
    )
