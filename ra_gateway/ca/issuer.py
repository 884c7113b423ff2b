"""The certificate-signing key and the one function that uses it for a request.

TBSCertificate is put together from the octets that were asked for, names and key byte for byte, and checked as
it is going to be signed: a builder that encodes and signs in one step would leave nothing to check before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from ra_gateway.ca.ledger import Ledger, Operation, SerialTaken
from ra_gateway.ca.profiles import Blueprint, Profile, draw_up, require_conforming
from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import default_algorithm, load_public_key, signing_arguments
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.messages import CertTemplate
from ra_gateway.errors import CMPError, ConfigError, Problem

SERIAL_OCTETS: Final = 16
"""126 random bits (R153 wants 64): collisions are not to be expected, and the ledger would refuse them."""

_SERIAL_ATTEMPTS: Final = 3
"""More than one collision means that the source of randomness is broken."""

Answer = Callable[[Certificate, tuple[str, ...]], Awaitable[bytes]]
"""Makes the answer (DER) for a certificate and what in it differs from the request."""


class Issuer:
    """An issuing CA: its certificate, its private key and the profile it issues under.

    Args:
        certificate: The issuing CA's own.
        chain: Its issuers, nearest first, the root last.
        private_key: Of `cryptography`, belongs to `certificate`.
        random_octets: Returns that many octets, unpredictable.

    Raises:
        ConfigError: These do not make a CA.
    """

    def __init__(
        self,
        certificate: Certificate,
        chain: tuple[Certificate, ...],
        private_key: Any,
        profile: Profile,
        random_octets: Callable[[int], bytes],
    ) -> None:
        _require_authority(certificate, private_key)
        self._key = private_key
        self._algorithm = default_algorithm(private_key.public_key())
        self._arguments = signing_arguments(self._algorithm)
        self._random_octets = random_octets
        self.certificate = certificate
        self.chain = chain
        self.profile = profile

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """DER of the chain of what is issued: the issuing CA first, the root last."""
        return (self.certificate.der, *(item.der for item in self.chain))

    async def issue(
        self,
        template: CertTemplate,
        operation: Operation,
        ledger: Ledger,
        answer: Answer,
        now: datetime,
    ) -> Operation:
        """Issue a certificate for a request that was authenticated and authorised.

        Args:
            template: What is asked for; its key's strength and possession were checked.
            operation: Without serial number and answer.
            now: Aware UTC.

        Returns:
            The operation as stored. It is another request's if that holds the transactionID: compare
            `request_digest`. Its answer may leave.

        Raises:
            TemplateRefused: The profile cannot grant it; nothing was stored.
            ServiceFailure, StoreUnavailable: Nothing may leave.
        """
        # 1 check: what is asked for against the profile. A refusal leaves no trace (R155).
        blueprint = draw_up(self.profile, template, self.certificate, now)
        # 2 and 3 reserve: serial number, intent and the claim on the transactionID, before the key is used.
        operation, found = await self._reserve(blueprint, operation, ledger, now)
        if found is not None:
            return found
        # 4 build.
        tbs_der = self._tbs(blueprint, operation.serial_number)
        # 5 check: the octets that are about to be signed.
        require_conforming(tbs_der, blueprint, self.profile, self.certificate, now)
        # 6 sign.
        certificate = load_certificate(self._sign(tbs_der))
        # 7 answer: made before the commit, so that what is stored is what a repeat gets.
        der = await answer(certificate, blueprint.changes)
        # 8 store: durable when this returns, and only then may the answer leave.
        return await ledger.store(replace(operation, answer=der), certificate, now)

    async def _reserve(
        self, blueprint: Blueprint, operation: Operation, ledger: Ledger, now: datetime
    ) -> tuple[Operation, Operation | None]:
        collisions = 0
        while True:
            operation = replace(operation, serial_number=self._serial_number())
            try:
                found = await ledger.reserve(
                    operation,
                    subject_der=blueprint.subject_der,
                    issuer_der=self.certificate.subject_der,
                    now=now,
                )
            except SerialTaken:
                collisions += 1
                if collisions == _SERIAL_ATTEMPTS:
                    raise
            else:
                return operation, found

    def certify(self, template: CertTemplate, now: datetime) -> Certificate:
        """Sign a certificate that no ledger knows: the CA's own signers and the RA's, from the command line.

        Raises:
            TemplateRefused, ServiceFailure: As `issue`.
        """
        blueprint = draw_up(self.profile, template, self.certificate, now)
        tbs_der = self._tbs(blueprint, self._serial_number())
        require_conforming(tbs_der, blueprint, self.profile, self.certificate, now)
        return Certificate.from_der(self._sign(tbs_der))

    def _serial_number(self) -> int:
        drawn = int.from_bytes(self._random_octets(SERIAL_OCTETS), "big")
        bits = SERIAL_OCTETS * 8
        # Top bit clear: positive. The next one set: always of the same length, never zero.
        return drawn & ((1 << (bits - 1)) - 1) | 1 << (bits - 2)

    def _tbs(self, blueprint: Blueprint, serial_number: int) -> bytes:
        return asn1.encode(
            asn1.TBSCertificate(
                version=2,  # v3
                serial_number=serial_number,
                signature=asn1.element(self._algorithm.der),
                issuer=asn1.element(self.certificate.subject_der),
                validity=asn1.Validity(
                    not_before=asn1.time(blueprint.not_before),
                    not_after=asn1.time(blueprint.not_after),
                ),
                subject=asn1.element(blueprint.subject_der),
                subject_public_key_info=asn1.element(blueprint.spki_der),
                issuer_unique_id=None,
                subject_unique_id=None,
                extensions=[
                    asn1.Extension(
                        extn_id=asn1.oid(item.oid), critical=item.critical, extn_value=item.value
                    )
                    for item in blueprint.extensions
                ],
            )
        )

    def _sign(self, tbs_der: bytes) -> bytes:
        signature: bytes = self._key.sign(tbs_der, *self._arguments)
        return asn1.tlv(0x30, tbs_der, self._algorithm.der, asn1.tlv(0x03, b"\x00", signature))

    def __repr__(self) -> str:
        return f"<Issuer {self.certificate.subject} {self.profile.name}>"


def _require_authority(certificate: Certificate, private_key: Any) -> None:
    wrong = ""
    try:
        if not certificate.is_ca:
            wrong = "is not a CA certificate"
        elif certificate.subject_key_identifier is None:
            wrong = "has no SubjectKeyIdentifier"
        elif private_key.public_key() != load_public_key(certificate.spki_der):
            wrong = "is for another key than the given one"
        else:
            default_algorithm(private_key.public_key())
    except CMPError as error:
        wrong = f"cannot be used: {error.detail}"
    if wrong:
        raise ConfigError(
            [
                Problem(
                    "ca.directory_path",
                    f"the issuing CA's certificate of {certificate.subject} {wrong}",
                    "Give issuing.pem and issuing.key of one CA, as `ra-gateway ca create` makes them",
                )
            ]
        )
