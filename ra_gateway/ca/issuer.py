"""An issuing CA: its key, and the numbered steps in which it is used for a request.

TBSCertificate is put together from the octets that were asked for, names and key byte for byte, and checked as
it is going to be signed: a builder that encodes and signs in one step would leave nothing to check before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from ra_gateway.ca.conformance import CheckedTBS, require_conforming
from ra_gateway.ca.extensions import write_validity
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.ledger.reserving import SerialTaken
from ra_gateway.ca.profiles import Profile
from ra_gateway.ca.records import Intent, Operation
from ra_gateway.ca.tbs import TBSPlan, complete, plan_tbs
from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import (
    canonical_spki,
    default_algorithm,
    load_public_key,
    pss_algorithm,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Signer
from ra_gateway.errors import CMPError, ConfigError, ServiceFailure
from ra_gateway.keys import KeySigner

SERIAL_OCTETS: Final = 16
"""126 random bits (R153 wants 64): collisions are not to be expected, and the ledger would refuse them."""

_SERIAL_ATTEMPTS: Final = 3
"""More than one collision means that the source of randomness is broken."""

Answer = Callable[[Certificate, tuple[str, ...]], Awaitable[bytes]]
"""Makes the answer (DER) for a certificate and what in it differs from the request."""


class Issuer:
    """An issuing CA: its certificate and its private key.

    Args:
        certificate: The issuing CA's own.
        chain: Its issuers, nearest first, the root last.
        private_key: Of `cryptography`, or in an HSM; belongs to `certificate`.
        random_octets: Returns that many octets, unpredictable.

    Raises:
        ConfigError: These do not make a CA.
    """

    def __init__(
        self,
        certificate: Certificate,
        chain: tuple[Certificate, ...],
        private_key: Any,
        random_octets: Callable[[int], bytes],
    ) -> None:
        self._private_key = private_key
        self.id = _require_authority(certificate, private_key).hex()
        """Key identifier in hexadecimal: `issuer_id` in the ledger."""
        self.signer: Signer = KeySigner(private_key)
        self.certificate = certificate
        self.chain = chain
        self._random_octets = random_octets
        self._stopped = ""
        self._set_algorithm()

    def _set_algorithm(self) -> None:
        self._algorithm_der = self.signer.algorithm.der
        self._constant = self._algorithm_der + self.certificate.subject_der

    def use_pss(self) -> None:
        """Sign certificates and CRLs by RSASSA-PSS from now on, in place of PKCS #1 v1.5 (TS 33.310 6.1.1).

        Raises:
            ConfigError: The key is no RSA key.
        """
        try:
            algorithm = pss_algorithm(self._private_key.public_key())
        except CMPError as error:
            raise ConfigError.of(
                "ca.rsa_pss",
                f"is on, but {self.certificate.subject} has no RSA key",
                "Take it out, or make an issuing CA with one: ca roll-issuing --key-kind rsa3072",
            ) from error
        self.signer = KeySigner(self._private_key, algorithm)
        self._set_algorithm()

    def stop(self, why: str) -> None:
        """Issue nothing from now on; CRLs are signed on."""
        self._stopped = why

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """DER of the chain of what is issued: the issuing CA first, the root last."""
        return (self.certificate.der, *(item.der for item in self.chain))

    async def issue(
        self,
        template: CertTemplate,
        profile: Profile,
        operation: Operation,
        intent: Intent,
        ledger: Ledger,
        answer: Answer,
        now: datetime,
        *,
        revoke_superseded: bool = False,
    ) -> Operation:
        """Issue a certificate for a request that was authenticated and authorised.

        Stopped between any two steps, this leaves a serial number without a certificate at worst: nothing is
        signed before its intent is durable, and nothing is sent before the certificate is.

        Args:
            template: What is asked for; its key's strength and possession were checked.
            operation: Without serial number and answer.
            intent: For whom; what is about to be issued is filled in here.
            now: Aware UTC.
            revoke_superseded: What is renewed is revoked, where nothing has to be confirmed.

        Returns:
            The operation as stored. It is another request's if that holds the transactionID: compare
            `request_digest`. Its answer may leave.

        Raises:
            TemplateRefused: The profile cannot grant it; nothing was stored.
            RequestRefused: The ledger does not allow it (`Ledger.reserve`); nothing was stored.
            ServiceFailure, StoreUnavailable: Nothing may leave.
        """
        # 1 check: what is asked for against the profile. A refusal leaves no trace (R155).
        plan = self.check(template, profile, now)
        intent = self._fill(intent, plan, profile, template)
        for attempt in range(1, _SERIAL_ATTEMPTS + 1):
            # 2 number: a random serial number, which the ledger sees to be a new one.
            operation = self.number(operation)
            try:
                # 3 reserve: serial number, intent and the claim on the transactionID, before the key is used.
                found = await self.reserve(operation, intent, ledger, now)
                break
            except SerialTaken:
                if attempt == _SERIAL_ATTEMPTS:
                    raise
        if found is not None:
            return found
        # 4 build.
        tbs_der = self.build(plan, operation.serial_number)
        # 5 inspect: the octets that are about to be signed.
        tbs = self.inspect(tbs_der, plan, profile, now)
        # 6 sign.
        certificate = await self.sign(tbs)
        # 7 answer: made before the commit, so that what is stored is what a retransmission gets.
        operation = await self.answer(operation, answer, certificate, plan)
        # 8 store: durable when this returns, and only then may the answer leave.
        return await self.store(
            operation, certificate, ledger, now, revoke_superseded=revoke_superseded
        )

    async def certify(self, template: CertTemplate, profile: Profile, now: datetime) -> Certificate:
        """Sign a certificate that no ledger knows: the CA's own signers and the RA's, from the command line.

        Raises:
            TemplateRefused, ServiceFailure: As `issue`.
        """
        plan = self.check(complete(profile, template), profile, now)
        tbs_der = self.build(plan, self._serial_number())
        return await self.sign(self.inspect(tbs_der, plan, profile, now))

    # The steps are methods so that each can be tested, measured and interrupted by itself.

    def check(self, template: CertTemplate, profile: Profile, now: datetime) -> TBSPlan:
        """Step 1: decide what the certificate says.

        Raises:
            TemplateRefused, ServiceFailure: As `plan_tbs`; or it was stopped.
        """
        if self._stopped:
            raise ServiceFailure(self._stopped)
        return plan_tbs(profile, template, self.certificate, now)

    def number(self, operation: Operation) -> Operation:
        """Step 2: give an operation a random serial number."""
        return replace(operation, serial_number=self._serial_number())

    async def reserve(
        self, operation: Operation, intent: Intent, ledger: Ledger, now: datetime
    ) -> Operation | None:
        """Step 3: claim serial number and transactionID, and make the intent durable.

        Raises:
            SerialTaken, RequestRefused, StoreUnavailable: As `Ledger.reserve`.
        """
        return await ledger.reserve(operation, intent, now)

    def build(self, plan: TBSPlan, serial_number: int) -> bytes:
        """Step 4: return the TBSCertificate.

        Args:
            serial_number: Positive.
        """
        return asn1.tlv(
            0x30,
            b"\xa0\x03\x02\x01\x02",  # v3
            asn1.encode(serial_number),
            self._constant,
            write_validity(plan.not_before, plan.not_after),
            plan.subject_der,
            plan.spki_der,
            asn1.tlv(0xA3, asn1.tlv(0x30, *plan.extensions)),
        )

    def inspect(self, tbs_der: bytes, plan: TBSPlan, profile: Profile, now: datetime) -> CheckedTBS:
        """Step 5: check what is about to be signed.

        Raises:
            ServiceFailure: As `require_conforming`.
        """
        return require_conforming(
            tbs_der, plan, profile, self.certificate, now, algorithm_der=self._algorithm_der
        )

    async def sign(self, checked: CheckedTBS) -> Certificate:
        """Step 6: sign, which only what was checked can be.

        Raises:
            ServiceFailure: The HSM does not sign.
        """
        tbs = checked.tbs
        signature = await self.signer.sign(tbs.der)
        der = asn1.tlv(0x30, tbs.der, self._algorithm_der, asn1.tlv(0x03, b"\x00", signature))
        # Not decoded again: the check has just read all of it but the signature.
        return Certificate(
            der=der,
            tbs_der=tbs.der,
            digest=hashlib.sha256(tbs.der).digest(),
            algorithm_der=self._algorithm_der,
            signature=signature,
            version=3,
            serial_number=tbs.serial_number,
            not_before=tbs.not_before,
            not_after=tbs.not_after,
            subject_der=tbs.subject_der,
            issuer_der=self.certificate.subject_der,
            spki_der=tbs.spki_der,
            extensions=tbs.extensions,
        )

    async def answer(
        self, operation: Operation, answer: Answer, certificate: Certificate, plan: TBSPlan
    ) -> Operation:
        """Step 7: give an operation its answer.

        Raises:
            ServiceFailure: The answer cannot be signed.
        """
        return replace(operation, answer=await answer(certificate, plan.changes))

    async def store(
        self,
        operation: Operation,
        certificate: Certificate,
        ledger: Ledger,
        now: datetime,
        *,
        revoke_superseded: bool = False,
    ) -> Operation:
        """Step 8: make certificate and answer durable.

        Raises:
            StoreUnavailable: As `Ledger.store`.
        """
        return await ledger.store(operation, certificate, now, revoke_superseded=revoke_superseded)

    def _fill(
        self, intent: Intent, plan: TBSPlan, profile: Profile, template: CertTemplate
    ) -> Intent:
        names = template.extension(OID.subjectAltName)  # which a profile grants or refuses
        return replace(
            intent,
            subject_der=plan.subject_der,
            san_der=None if names is None else names.value,
            issuer_id=self.id,
            profile=profile.name,
            spki_digest=hashlib.sha256(canonical_spki(plan.spki_der)).digest(),
        )

    def _serial_number(self) -> int:
        drawn = int.from_bytes(self._random_octets(SERIAL_OCTETS), "big")
        bits = SERIAL_OCTETS * 8
        # Top bit clear: positive. The next one set: always of the same length, never zero.
        return drawn & ((1 << (bits - 1)) - 1) | 1 << (bits - 2)

    def __repr__(self) -> str:
        return f"<Issuer {self.certificate.subject}>"


def _require_authority(certificate: Certificate, private_key: Any) -> bytes:
    """Return the key identifier of a CA, whose certificate and key belong together."""
    wrong = ""
    identifier: bytes | None = None
    try:
        identifier = certificate.subject_key_identifier
        if not certificate.is_ca:
            wrong = "is not a CA certificate"
        elif not identifier:
            wrong = "has no SubjectKeyIdentifier"
        elif private_key.public_key() != load_public_key(certificate.spki_der):
            wrong = "is for another key than the given one"
        else:
            default_algorithm(private_key.public_key())
    except CMPError as error:
        wrong = f"cannot be used: {error.detail}"
    if wrong or identifier is None:
        raise ConfigError.of(
            "ca.directory_path",
            f"the issuing CA's certificate of {certificate.subject} {wrong}",
            "Give issuing.pem and issuing.key of one CA, as `ra-gateway ca create` makes them",
        )
    return identifier
