"""One installation of EJBCA: what was set in it and what it remembers."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crmf import CertReqMsg
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import NULL_DN, attributes, name_of
from tests.support.ejbca.configuration import (
    CA,
    EMPTY,
    ENDUSER,
    KEY_ID,
    NAME_ATTRIBUTES,
    NOBODY,
    PROFILE_DEFAULT,
    Alias,
    CertificateProfile,
    EndEntityProfile,
    Role,
    ca_id,
)
from tests.support.ejbca.database import Database, EndEntity
from tests.support.ejbca.refusals import bad_request

_ILLEGAL: Final = re.compile(r"[\n\r\0;!%`?$~]")
_KEY_ID_OCTETS: Final = 128


@dataclass(frozen=True, slots=True)
class Received:
    """A message on its way through an alias.

    Args:
        asked: The first request in it; None in an rr.
        nested: Whether it came inside a nested message whose signature was verified.
    """

    message: PKIMessage
    alias: Alias
    asked: CertReqMsg | None
    nested: bool = False

    @property
    def key_id(self) -> str:
        """senderKID as text, which is how EJBCA reads it."""
        return (self.message.header.sender_kid or b"")[:_KEY_ID_OCTETS].decode("utf-8", "replace")

    @property
    def subject_der(self) -> bytes | None:
        """The subject asked for, None if there is none."""
        subject_der = None if self.asked is None else self.asked.template.subject_der
        return None if subject_der == NULL_DN else subject_der


@dataclass(slots=True)
class Installation:
    """What an installation consists of; tests may change anything in it while it runs.

    Args:
        cas: By name.
        external_cas: CAs of vendors, by name.
        aliases: By name; "cmp" is taken where a URL or path names none.
        roles: Of administrators, by name.
        req_cert_in_db: web.reqcertindb: whether a signer's certificate must be in the database.
        enterprise: Whether it is the Enterprise Edition, which has the vendor certificate mode.
        release: 8 or later signs errors that are sent to a CA it knows; earlier ones signed none.
        reversed_rr_sender: Whether answers to rr have the sender's RDNs in reverse, as they once did.
        unavailable: Whether a proxy in front of it answers instead, with HTTP 503 and a page.
        log: What it writes into its log only.
    """

    cas: dict[str, CA]
    aliases: dict[str, Alias]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    external_cas: dict[str, CA] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    certificate_profiles: dict[str, CertificateProfile] = field(
        default_factory=lambda: {ENDUSER: CertificateProfile()}
    )
    end_entity_profiles: dict[str, EndEntityProfile] = field(
        default_factory=lambda: {EMPTY: EndEntityProfile(1)}
    )
    database: Database = field(default_factory=Database)
    req_cert_in_db: bool = True
    enterprise: bool = False
    release: int = 8
    reversed_rr_sender: bool = False
    unavailable: bool = False
    log: list[str] = field(default_factory=list)

    # --- certification authorities

    def ca_numbered(self, number: int) -> CA | None:
        """Return a CA by its number."""
        return next((ca for ca in self.cas.values() if ca.number == number), None)

    def ca_addressed(self, general_name_der: bytes) -> CA | None:
        """Return the CA that a recipient names; another string type or case is no other name."""
        name_der = name_of(general_name_der)
        return None if name_der in (None, NULL_DN) else self.ca_numbered(ca_id(name_der))

    def issuer_of(self, certificate: Certificate) -> CA | None:
        """Return the CA that a certificate names as its issuer."""
        return self.ca_numbered(ca_id(certificate.issuer_der))

    # --- what an alias means for a request in RA mode

    def ra_profile_name(self, received: Received) -> str:
        """Return the name of the end entity profile."""
        name = received.alias.ra_endentityprofile
        return received.key_id if name == KEY_ID else name

    def ra_ca_name(self, received: Received) -> str:
        """Return the name of the CA that is to issue."""
        return self._named(received, received.alias.ra_caname, lambda profile: profile.default_ca)

    def ra_certificate_profile_name(self, received: Received) -> str:
        """Return the name of the certificate profile."""
        return self._named(
            received,
            received.alias.ra_certificateprofile,
            lambda profile: profile.default_certificate_profile,
        )

    def _named(
        self, received: Received, name: str, default: Callable[[EndEntityProfile], str]
    ) -> str:
        profile = self.end_entity_profiles.get(self.ra_profile_name(received))
        if name == PROFILE_DEFAULT and profile is not None:
            return default(profile)
        return received.key_id if name == KEY_ID else name

    # --- end entities and administrators

    def role_of(self, certificate: Certificate) -> Role:
        """Return the rights of whoever has a certificate: its common name and issuer count."""
        issuers = [name for name, ca in self.cas.items() if ca == self.issuer_of(certificate)]
        names = component(certificate.subject_der, "CN")
        memberships = {(name, issuer) for name in names for issuer in issuers}
        found = [role for role in self.roles.values() if role.members & memberships]
        return found[0] if found else NOBODY

    def username_for(self, alias: Alias, subject_der: bytes) -> str:
        """Return the username of a new end entity.

        Raises:
            Refused: The subject lacks the attributes it could be made of.
        """
        match alias.ra_namegenerationscheme:
            case "RANDOM":
                name = _random_characters(12)
            case "FIXED":
                name = alias.ra_namegenerationparameters
            case "DN":
                parts = alias.ra_namegenerationparameters.split(";")
                found = [value for part in parts for value in component(subject_der, part)]
                if not found:
                    raise bad_request(f"No username can be made of {', '.join(parts)}")
                name = found[0]
            case other:
                raise bad_request(f"CMP module configuration error: no such scheme: {other}")
        return affixed(alias, name)

    def requested_entity(self, received: Received) -> EndEntity | None:
        """Return the end entity that a request is for in client mode."""
        subject_der, alias = received.subject_der, received.alias
        if subject_der is None:
            return None
        if alias.extractusernamecomponent == "DN":
            return next(iter(self.database.with_subject(subject_der)), None)
        for name in component(subject_der, alias.extractusernamecomponent):
            username = affixed(alias, name) if alias.vendorcertificatemode else name
            return self.database.entities.get(username)
        return None


def component(subject_der: bytes, name: str) -> list[str]:
    """Return the values of an attribute ("CN", "UID") in a subject."""
    wanted = NAME_ATTRIBUTES[name]
    return [value for oid, value in attributes(subject_der) if oid == wanted]


def affixed(alias: Alias, name: str) -> str:
    """Return a username with the alias's prefix and postfix, without characters that none may have."""
    prefix, postfix = (
        text.replace("${RANDOM}", _random_characters(10))
        for text in (alias.ra_namegenerationprefix, alias.ra_namegenerationpostfix)
    )
    return prefix + _ILLEGAL.sub("", name) + postfix


def _random_characters(count: int) -> str:
    return "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(count))
