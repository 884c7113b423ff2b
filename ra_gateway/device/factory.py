"""A vendor's factory: root, sub-CA, and base stations that leave it with a key and a certificate."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
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

_LEEWAY: Final = timedelta(minutes=5)
_FACTORY_LIFE: Final = timedelta(days=365 * 20)
"""Vendor certificates outlive their base stations: nobody goes to the mast to renew one."""


@dataclass(frozen=True, slots=True)
class DeviceCA:
    """The CA by which a manufacturer certifies its base stations.

    Args:
        private_key: Its own, of `cryptography`.
        chain: CAs above it without the root, nearest first.
        key_kind: Of its base stations' keys, out of `ra_gateway.keys.KEY_KINDS`.
    """

    certificate: Certificate
    private_key: Any
    chain: tuple[Certificate, ...]
    key_kind: str
    clock: Callable[[], datetime]
    name: x509.Name = field(init=False)

    def __post_init__(self) -> None:
        name = x509.load_der_x509_certificate(self.certificate.der).subject
        object.__setattr__(self, "name", name)

    @property
    def organisation(self) -> str:
        """Its manufacturer, as its own certificate names it."""
        named = self.name.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
        return str(named[0].value) if named else "Vendor"

    def make_device(self, host: str) -> tuple[Credential, Any]:
        """Make a base station, with its FQDN as CN and dNSName (TS 33.310 9.4.4).

        Args:
            host: First label of the FQDN, in the vendor's domain.

        Returns:
            Its credential and its private key.
        """
        key = KEY_KINDS[self.key_kind]()
        fqdn = f"{host.lower()}.{_domain(self.organisation)}"
        now = self.clock()
        certificate = sign_certificate(
            _subject(self.organisation, fqdn),
            key,
            self.name,
            self.private_key,
            not_before=now - _LEEWAY,
            not_after=min(now + _FACTORY_LIFE, self.certificate.not_after),
            dns_names=(fqdn,),
        )
        # A root has no place in extraCerts.
        above = () if self.certificate.self_issued else (self.certificate, *self.chain)
        return Credential(certificate, above, KeySigner(key)), key


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
        return DeviceCA(self.sub, self.sub_key, (), self.key_kind, self.clock).make_device(host)

    @property
    def domain(self) -> str:
        """DNS domain of its base stations, such as acme-radio.example."""
        return _domain(self.name)

    def write(self, directory: Path) -> None:
        """Write root.pem, sub.pem and sub.key.

        Raises:
            FileExistsError: One of them is there already.
        """
        write_certificates(directory / "root.pem", [self.root])
        write_certificates(directory / "sub.pem", [self.sub])
        write_private_key(directory / "sub.key", self.sub_key)


def _domain(organisation: str) -> str:
    return f"{re.sub('[^a-z0-9]+', '-', organisation.lower()).strip('-') or 'vendor'}.example"


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
    ca_below: int,
) -> Certificate:
    return sign_certificate(
        subject,
        private_key,
        issuer,
        issuer_key,
        not_before=now - _LEEWAY,
        not_after=now + _FACTORY_LIFE,
        path_length=ca_below,
    )
