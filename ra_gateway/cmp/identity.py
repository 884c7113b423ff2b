"""What a vendor certificate says of its device: attributes of its subject, and the FQDN among its names.

TS 33.310 9.4.4 names a device by its FQDN, as CN and as dNSName; other vendors do so by a serialNumber. The vendor's CA
chose and signed all of it, so that no device has a choice here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from string import Formatter
from typing import Final

from ra_gateway.cmp import asn1
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.hosts import fqdn_of
from ra_gateway.cmp.names import attributes, folded
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.remembering import once
from ra_gateway.errors import MalformedMessage, NotAuthorized

SUBJECT_PLACEHOLDERS: Final = {
    "cn": OID.commonName,
    "serial_number": OID.serialNumber,
    "o": OID.organizationName,
    "ou": OID.organizationalUnitName,
    "c": OID.countryName,
    "l": OID.localityName,
    "st": OID.stateOrProvinceName,
    "street": OID.streetAddress,
    "title": OID.title,
    "postal_code": OID.postalCode,
    "dn_qualifier": OID.dnQualifier,
    "pseudonym": OID.pseudonym,
    "uid": OID.userId,
    "dc": OID.domainComponent,
}
"""Attributes of the vendor certificate's subject by their names in placeholders; every other one goes by its OID."""

PLACEHOLDERS: Final = (*SUBJECT_PLACEHOLDERS, "serial", "fqdn", "host")
"""What templates and patterns may take from a vendor certificate, besides attributes by their dotted OID.

serial is the certificate's own number in hexadecimal, fqdn the dNSName, host its first label.
"""

DOTTED_OID: Final = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]{0,9})){2,19}")

SERIAL_NUMBER_OR_FQDN: Final = "serial_number_or_fqdn"
"""Names a device by its serialNumber, or by its FQDN where it has none."""

_MOST_NAMES: Final = 64


def identity_key(identity: str) -> str:
    """Return an identity in the form that is equal for two spellings of it: case and blanks make no difference.

    So X.520 compares serialNumber and commonName, and RFC 5280 7.2 a dNSName.
    """
    return folded(identity)


class DeviceValues:
    """What a certificate says of its device, by placeholder; an attribute that it has twice says nothing."""

    def __init__(self, certificate: Certificate) -> None:
        self._certificate = certificate

    @once
    def _attributes(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for oid, text in attributes(self._certificate.subject_der):
            found.setdefault(oid, []).append(text)
        return found

    def get(self, placeholder: str) -> str | None:
        """Return a value, None for what the certificate lacks or has more than once."""
        if placeholder == "serial":
            return f"{self._certificate.serial_number:x}"
        if placeholder == "fqdn":
            return self.fqdn
        if placeholder == "host":
            return None if self.fqdn is None else self.fqdn.partition(".")[0]
        found = self._attributes.get(SUBJECT_PLACEHOLDERS.get(placeholder, placeholder), ())
        return found[0] if len(found) == 1 else None

    @once
    def fqdn(self) -> str | None:
        """The FQDN in lower case: the only dNSName, or of several the one that is the CN too; else None."""
        names = {self._decoded(octets) for octets in self._dns_names()}
        if len(names) > 1:
            names &= {fqdn_of(self.get("cn") or "")}
        return names.pop() if len(names) == 1 else None

    def _dns_names(self) -> list[bytes]:
        san_der = self._certificate.subject_alt_name_der
        try:
            names = [] if san_der is None else asn1.parts(san_der, _MOST_NAMES, "GeneralNames")
        except MalformedMessage:
            return []
        return [asn1.inner(name) for name in names if name[:1] == b"\x82"]

    @staticmethod
    def _decoded(dns_name: bytes) -> str | None:
        return fqdn_of(dns_name.decode("latin-1"))

    def identity(self, source: str, domain: str) -> str:
        """Return what names the device among its vendor's, by its operator's setting.

        Args:
            source: A placeholder, or `SERIAL_NUMBER_OR_FQDN`.
            domain: Name of the vendor, for what is wrong.

        Raises:
            NotAuthorized: The certificate does not say it, says it more than once, or contradicts itself.
        """
        if source != SERIAL_NUMBER_OR_FQDN:
            return self._required(source, self.get(source), domain)
        numbers = self._attributes.get(OID.serialNumber, [])
        if numbers:
            number = self._required("serial_number", self.get("serial_number"), domain)
            if fqdn_of(identity_key(number)) not in (None, self.fqdn):
                raise self._unclear(
                    f"its serialNumber {number!r} could be the FQDN of another device",
                    "serial_number",
                )
            return number
        fqdn = self._required("serial_number, nor an fqdn", self.fqdn, domain)
        common_name = fqdn_of(self.get("cn") or "")
        if common_name not in (None, fqdn):
            raise self._unclear(
                f"its CN {common_name} is another FQDN than its dNSName {fqdn}", "fqdn"
            )
        return fqdn

    def _required(self, what: str, value: str | None, domain: str) -> str:
        if not value:
            raise NotAuthorized(
                f"{self._certificate.subject} has no {what}, or more than one, by which devices of {domain} are "
                "looked up",
                rule="R145",
            )
        return value

    def _unclear(self, why: str, source: str) -> NotAuthorized:
        return NotAuthorized(
            f"{self._certificate.subject} does not say clearly which device it is of: {why} "
            f'(identity_from = "{source}" takes it for that)',
            rule="T27",
        )


def placeholders(template: str) -> list[tuple[str, str | None]]:
    """Return a template as literal texts, each with the placeholder that follows it, if one does.

    Raises:
        ValueError: A brace has no partner, or something in braces is more than a name.
    """
    found = []
    for literal, name, spec, conversion in Formatter().parse(template):
        if spec or conversion:
            raise ValueError(f"{name} with a format")
        found.append((literal, name))
    return found


def fill(template: str, value: Callable[[str], str | None]) -> str:
    """Return a template with every placeholder replaced.

    Args:
        value: Of a placeholder, None for what there is not.

    Raises:
        KeyError: There is no value; its argument is the placeholder.
        ValueError: It is no template.
    """
    filled = []
    for literal, name in placeholders(template):
        filled.append(literal)
        if name is not None:
            text = value(name)
            if text is None:
                raise KeyError(name)
            filled.append(text)
    return "".join(filled)
