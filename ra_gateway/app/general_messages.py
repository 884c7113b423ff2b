"""From what is configured of genm to what the RA tells devices itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from ra_gateway.app.trust import certificates
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crl import decode_crl, distribution_point_urls, open_crl, split_crls
from ra_gateway.cmp.genm import CRLQuestion, cert_req_template, root_ca_key_update
from ra_gateway.cmp.names import name_template, same_name
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.config.tables import GenmConfig
from ra_gateway.errors import ConfigError, CRLRefused, StoreUnavailable
from ra_gateway.ra.general_messages import INFO_TYPES, Information
from ra_gateway.ra.settings import Informing

_MAX_FILE_OCTETS: Final = 64_000_000
"""Devices that are told a CRL could not take what is larger."""


@dataclass(frozen=True, slots=True)
class _Read:
    """One CRL of a file, and what it is found by."""

    der: bytes
    this_update: datetime
    issuer_der: bytes
    urls: tuple[str, ...]


class CRLFiles:
    """CRLs to be told, read again when a file changes (`ra_gateway.ra.general_messages.PublishedCRLs`).

    Args:
        paths: PEM or DER.
        own: Returns certificates of the operator: the distribution points that they name hold their issuers' CRLs.
    """

    def __init__(
        self, paths: Sequence[Path], own: Callable[[], Collection[Certificate]] = tuple
    ) -> None:
        self._paths = tuple(paths)
        self._own = own
        self._read: dict[Path, tuple[int, tuple[_Read, ...]]] = {}

    async def find(
        self, question: CRLQuestion, asker: Certificate
    ) -> tuple[datetime, bytes] | None:
        """Return thisUpdate and DER of the newest CRL that is meant.

        Raises:
            StoreUnavailable: A file cannot be used.
        """
        try:
            known = await asyncio.to_thread(self._load)
        except (OSError, CRLRefused) as error:
            raise StoreUnavailable(f"a CRL to be told cannot be read: {error}") from error
        issuers = [
            *question.issuers,
            *(
                certificate.issuer_der
                for certificate in (asker, *self._own())
                if not set(question.urls).isdisjoint(distribution_point_urls(certificate))
            ),
        ]
        fitting = [item for item in known if _fits(item, question, issuers)]
        newest = max(fitting, key=lambda item: item.this_update, default=None)
        return None if newest is None else (newest.this_update, newest.der)

    def _load(self) -> list[_Read]:
        found: list[_Read] = []
        for path in self._paths:
            changed = path.stat().st_mtime_ns
            kept = self._read.get(path)
            if kept is None or kept[0] != changed:
                kept = (changed, tuple(_read(path)))
                self._read[path] = kept
            found += kept[1]
        return found


def _read(path: Path) -> Iterator[_Read]:
    for der in split_crls(_content(path)):
        received = open_crl(der)
        urls = tuple(_urls(x509.load_der_x509_crl(der)))
        yield _Read(der, decode_crl(received).this_update, received.issuer_der, urls)


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        octets = file.read(_MAX_FILE_OCTETS + 1)
    if len(octets) > _MAX_FILE_OCTETS:
        raise CRLRefused(f"{path} has more than {_MAX_FILE_OCTETS} octets")
    return octets


def _urls(crl: x509.CertificateRevocationList) -> Iterator[str]:
    try:
        point = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
    except x509.ExtensionNotFound:
        return
    for name in point.full_name or ():
        if isinstance(name, x509.UniformResourceIdentifier):
            yield name.value


def _fits(item: _Read, question: CRLQuestion, issuers: Sequence[bytes]) -> bool:
    if question.urls and item.urls:
        return not set(item.urls).isdisjoint(question.urls)
    # One that names no distribution point is the whole of its issuer's, wherever it is published (RFC 5280 5.2.5).
    return any(same_name(issuer_der, item.issuer_der) for issuer_der in issuers)


def information(
    config: GenmConfig,
    setting: str,
    operator: TrustDomain,
    own: Callable[[], Collection[Certificate]] = tuple,
) -> Information:
    """Return what an endpoint tells by genm itself.

    Args:
        setting: Dotted path of the table, for errors.
        operator: Whose CA certificates are told.
        own: Returns the RA's certificates.

    Raises:
        ConfigError: A file, or the template's subject, cannot be used.
    """
    old_root = _certificate(config.old_root_path, f"{setting}.old_root_path")
    new_root = _certificate(config.new_root_path, f"{setting}.new_root_path")
    new_with_old = _certificate(config.new_with_old_path, f"{setting}.new_with_old_path")
    old_with_new = _certificate(config.old_with_new_path, f"{setting}.old_with_new_path")
    return Information(
        ways={oid: getattr(config, name) for name, oid in INFO_TYPES.items()},
        others=config.others,
        ca_certificates=tuple(item.der for item in operator.intermediates if not item.self_issued),
        root_update=b""
        if new_root is None
        else root_ca_key_update(new_root, new_with_old, old_with_new),
        old_root_der=old_root or b"",
        template_der=_template(config, setting),
        crls=CRLFiles(config.crl_paths, lambda: (*own(), *operator.intermediates))
        if config.crl_status_list is Informing.local
        else None,
    )


def _certificate(path: Path | None, setting: str) -> bytes | None:
    if path is None:
        return None
    return certificates((path,), setting)[0].der


def _template(config: GenmConfig, setting: str) -> bytes:
    if config.template_subject is None and not config.template_keys:
        return b""
    try:
        subject = config.template_subject
        subject_der = None if subject is None else name_template(subject)
    except ValueError as error:
        raise ConfigError.of(
            f"{setting}.template_subject", f"is not a Name: {error}", "Write CN=,O=Example."
        ) from error
    return cert_req_template(subject_der, config.template_keys)
