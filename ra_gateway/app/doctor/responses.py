"""What a CA's answer to a probe says: of the request, of who answered, of the clocks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from ra_gateway.app.credential import EXPIRY_WARNING
from ra_gateway.app.doctor.known_errors import UNKNOWN, Cause, explain, of_other_cas
from ra_gateway.app.doctor.probes import Probe
from ra_gateway.app.doctor.results import Check, Result, Verdict
from ra_gateway.cmp.bodies import (
    PKIStatusInfo,
    cert_rep_message,
    error_msg_content,
    rev_rep_content,
)
from ra_gateway.cmp.certificates import Certificate, readable_certificates
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.header_checks import HeaderRules, check_answer_header
from ra_gateway.cmp.mac import MACCredential, mac_protected
from ra_gateway.cmp.mac_verification import authenticate_answer_by_secret
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import name_of, readable, same_name
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.verification import (
    authenticate_answer,
    check_authority,
)
from ra_gateway.errors import CMPError, MalformedMessage, PKIFailureInfo, printable
from ra_gateway.ra.endpoints import Upstream
from ra_gateway.ra.settings import CAQuirk

SKEW_NOTICED: Final = timedelta(seconds=60)
"""Less is what a message's way and a lazy clock make."""

SKEW_FATAL: Final = timedelta(seconds=300)
"""What most CAs and our own endpoints bear of messageTime by default."""

_RULES: Final = HeaderRules(strictness=Strictness.lenient, extra_certs_max_count=64)

_EXPECTED: Final = {
    BodyType.ir: ((PKIFailureInfo.badPOP,), ()),
    BodyType.cr: ((PKIFailureInfo.badPOP,), ()),
    BodyType.p10cr: ((PKIFailureInfo.badPOP,), ()),
    BodyType.rr: ((PKIFailureInfo.badCertId,), ("wrong certificate to revoke",)),
    # EJBCA looks for the end entity first, and says so in more than one way.
    BodyType.kur: (
        (PKIFailureInfo.badPOP, PKIFailureInfo.badCertId),
        ("non-existing end entity", "for the dn was not found", "for the dn not found"),
    ),
    BodyType.genm: ((), ()),
}
"""failInfo, or part of the text, with which a healthy CA refuses each probe."""

_TEXT_CHARS: Final = 300
"""Of what a CA says; its log has the rest."""

_OF_WHO_SIGNED: Final = frozenset(
    {
        PKIFailureInfo.notAuthorized,
        PKIFailureInfo.signerNotTrusted,
        PKIFailureInfo.badMessageCheck,
        PKIFailureInfo.wrongIntegrity,
    }
)


_IN_ITS_OWN_WAY: Final = replace(
    UNKNOWN,
    cause="the CA says in its own way that there is no such certificate, or refuses all such requests",
    verdict=Verdict.warning,
)


@dataclass(frozen=True, slots=True)
class ProbeResponse:
    """What an answer says of a request.

    Args:
        certificates: DER of those that came, which should be none.
        granted: Whether it says that the request was granted, even if no certificate can be seen.
    """

    message: PKIMessage
    infos: tuple[PKIStatusInfo, ...] = ()
    details: tuple[str, ...] = ()
    certificates: tuple[bytes, ...] = ()
    granted: bool = False

    @property
    def waiting(self) -> bool:
        """Whether the request waits for somebody."""
        return self.message.body_type is BodyType.pollRep or any(
            info.status is PKIStatus.waiting for info in self.infos
        )

    @property
    def fail_info(self) -> frozenset[PKIFailureInfo]:
        """All bits."""
        return frozenset(bit for info in self.infos for bit in info.fail_info)

    @property
    def text(self) -> str:
        """All texts."""
        return "; ".join(
            (*(text for info in self.infos for text in info.status_string), *self.details)
        )

    def __str__(self) -> str:
        parts = ("; ".join(map(str, self.infos)), *self.details)
        return ": ".join(
            filter(None, (self.message.body_type.name, "; ".join(filter(None, parts))))
        )


def read(der: bytes) -> ProbeResponse:
    """Decode an answer.

    Raises:
        MalformedMessage: It is no PKIMessage.
    """
    message = PKIMessage.from_der(der)
    content = message.body_content
    if message.body_type is BodyType.error:
        error = error_msg_content(content)
        return ProbeResponse(message, (error.status_info,), error.error_details)
    if message.body_type is BodyType.rp:
        statuses = rev_rep_content(content).statuses
        return ProbeResponse(message, statuses, granted=any(info.issued for info in statuses))
    if message.body_type in CERT_RESPONSE_TO.values():
        responses = cert_rep_message(content).responses
        return ProbeResponse(
            message,
            tuple(item.status_info for item in responses),
            certificates=tuple(
                item.certificate_der for item in responses if item.certificate_der is not None
            ),
            granted=any(item.encrypted or item.status_info.issued for item in responses),
        )
    return ProbeResponse(message)


# --- of the request -------------------------------------------------------------------------------------------


def assess(name: str, probe: Probe, response: ProbeResponse, *, is_ejbca: bool = True) -> Result:
    """Say whether an answer is what a healthy CA says to a probe.

    Args:
        is_ejbca: As of `explain`.
    """
    requested = probe.request in CERT_RESPONSE_TO
    if response.certificates or (requested and response.granted):
        return _issued(name, probe, response)
    if response.waiting:
        cause = Cause(
            "the CA has put the probe before somebody who decides: refuse it there",
            "the CA's approvals",
            verdict=Verdict.warning,
        )
        return refused(name, probe, str(response), cause)
    answered = response.message.body_type is RESPONSE_TO[probe.request]
    if probe.request is BodyType.genm and answered:
        return Result(f"upstream {name}", probe.tried, "genp")
    if probe.request is BodyType.rr and response.granted:
        cause = Cause(
            "the CA says yes to the revocation of a certificate that does not exist, or has it approved of",
            "the CA's log: what did it revoke?",
            verdict=Verdict.warning,
        )
        return refused(name, probe, str(response), cause)
    if not answered and response.message.body_type is not BodyType.error:
        cause = Cause("this is no answer to it", "upstreams.{name}.url (or urls)")
        return refused(name, probe, str(response), cause)
    bits, texts = _EXPECTED[probe.request]
    if response.fail_info & set(bits) or any(text in response.text.casefold() for text in texts):
        came_back = printable(f"refused as it should be: {response}", _TEXT_CHARS)
        return Result(f"upstream {name}", probe.tried, came_back)
    cause = explain(response.text, response.fail_info, probe.request, is_ejbca=is_ejbca)
    if cause is UNKNOWN and probe.request in (BodyType.kur, BodyType.rr):
        cause = _IN_ITS_OWN_WAY
    return refused(name, probe, str(response), cause)


def refused(name: str, probe: Probe, came_back: str, cause: Cause) -> Result:
    """Return a result with what the table says of it."""
    return Check(f"upstream {name}", probe.tried).result(
        cause.verdict,
        printable(came_back, _TEXT_CHARS),
        cause.cause,
        cause.setting.replace("{name}", name),
    )


def refused_alone(name: str, probe: Probe, response: ProbeResponse) -> Result:
    """Return the result of a probe that is not authorised at a CA which takes another one of this RA."""
    cause = Cause(
        "the CA knows the RA, and refuses this request of it: such requests, or the probe's names",
        "doctor --subject and --san with names like your devices'; the CA's rights of the RA (bundled CA: "
        "ra-gateway ca role show)",
        verdict=Verdict.warning,
    )
    return refused(name, probe, str(response), cause)


def _issued(name: str, probe: Probe, response: ProbeResponse) -> Result:
    serials = ", ".join(_serial(der) for der in response.certificates) or "not told"
    return Check(f"upstream {name}", probe.tried).fault(
        f"a certificate was issued, serial number {serials}",
        "the CA does not verify proof of possession",
        f"the CA: verify proof of possession; revoke the certificate with serial number {serials}",
    )


def _serial(der: bytes) -> str:
    try:
        return f"{Certificate.from_der(der).serial_number:x}"
    except MalformedMessage:
        return "unreadable"


def not_authorised(response: ProbeResponse, *, is_ejbca: bool) -> bool:
    """Tell whether a CA refuses with notAuthorized, and says no more that is known."""
    said = response.fail_info
    known = explain(response.text, said, BodyType.ir, is_ejbca=is_ejbca).text
    return said == {PKIFailureInfo.notAuthorized} and not known


def kur_wants_the_device(first: ProbeResponse, renewed: ProbeResponse) -> bool:
    """Tell whether a CA takes ir from the RA, but minds who signed a kur."""
    return PKIFailureInfo.badPOP in first.fail_info and bool(renewed.fail_info & _OF_WHO_SIGNED)


def of_kur(name: str, probe: Probe, response: ProbeResponse) -> Result:
    """Say what to do about a CA that minds who signed a kur."""
    signer = (
        "the CA wants a kur signed with the certificate that it renews (RFC 9483 4.1.3), and the gateway signs it "
        "itself"
    )
    right = "it grants the RA ir, but not kur"
    variant = 'upstreams.{name}.kur = "nested" or "forward"'
    grant = "the right to kur at the CA (bundled CA: the privilege update in the RA's role, ra-gateway ca role add)"
    if PKIFailureInfo.notAuthorized in response.fail_info:  # it believes who signed
        cause = Cause(f"{right}; or {signer}", f"{grant}; or {variant}")
    else:
        cause = Cause(f"{signer}; or {right}", f"{variant}; or {grant}")
    return refused(name, probe, str(response), cause)


# --- of who answered ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResponseCheck:
    """What is known when an answer's protection is looked at.

    Args:
        authorities: CA certificates that the configuration names.
        is_ejbca: As of `explain`.
        secrets: What an answer under a MAC may be protected with.
    """

    upstream: Upstream
    authorities: Collection[Certificate]
    now: datetime
    is_ejbca: bool = True
    secrets: tuple[MACCredential, ...] = ()

    def of_protection(self, probe: Probe, response: ProbeResponse) -> Result:
        """Say whether the gateway would believe an answer."""
        tried = f"protection of the answer to {probe.request.name}"
        message = response.message
        if message.protection is None:
            return self._unprotected(tried, response)
        try:
            check_answer_header(
                message.header,
                transaction_id=probe.transaction_id,
                sender_nonces=(probe.sender_nonce,),
            )
            if self.secrets:
                authenticate_answer_by_secret(message, self.secrets, self.upstream.trust)
                return self._result(tried, "under the shared secret", verdict=Verdict.ok)
            authenticated = authenticate_answer(
                message, self.upstream.trust, self.upstream.pinned, _RULES, self.now
            )
        except CMPError as error:
            return self._not_believed(tried, message, error)
        signer = authenticated.signer
        upstream = self.upstream
        try:
            check_authority(
                signer, upstream.pinned, (upstream.issuing, upstream.trust), upstream.own()
            )
        except CMPError:
            return self._result(
                tried,
                f"signed by {signer.subject}, which is neither an issuing CA nor has cmcCA",
                "any base station's or RA's certificate chains to this root, so the gateway does not believe it",
                "upstreams.{name}.ca_certificate_paths: add this certificate, if it speaks for the CA",
            )
        how = "which is pinned" if signer in upstream.pinned else "which chains to a trusted root"
        left = signer.not_after - self.now
        if left < EXPIRY_WARNING:
            return self._result(
                tried,
                f"signed by {signer.subject}, {how} and expires in {left.days} days",
                "the certificate that speaks for the CA expires soon",
                "the CA: a new one; upstreams.{name}.ca_certificate_paths: add it, if the old one is there",
                Verdict.warning,
            )
        return self._result(tried, f"signed by {signer.subject}, {how}", verdict=Verdict.ok)

    def of_recipient(self, shown: Collection[Certificate]) -> Result | None:
        """Compare the recipient of our messages with the CA certificates that are known or were shown.

        Args:
            shown: Certificates that came with answers.
        """
        authorities = [item for item in (*self.authorities, *shown) if item.is_ca]
        recipient_der = name_of(self.upstream.recipient_der) or b"\x30\x00"
        subject = readable(recipient_der)
        tried = "recipient of our messages"
        if any(same_name(item.subject_der, recipient_der) for item in authorities):
            return self._result(tried, f"{subject}, a CA's subject", verdict=Verdict.ok)
        names = sorted({item.subject for item in authorities if not item.self_issued})
        return self._result(
            tried,
            f"{subject}; CAs seen: {'; '.join(names) or 'none'}",
            "the recipient is not the subject of any CA seen; EJBCA then leaves errors and pkiConf unprotected",
            "upstreams.{name}.recipient = subject of the issuing CA; EJBCA alias: defaultca = the same",
            Verdict.warning,
        )

    def _unprotected(self, tried: str, response: ProbeResponse) -> Result:
        body_type = response.message.body_type
        if body_type is not BodyType.error:
            if CAQuirk.unprotected_rejection in self.upstream.settings.tolerate:
                return self._result(
                    tried, f"{body_type.name} without protection, as tolerated", verdict=Verdict.ok
                )
            return self._result(
                tried,
                f"{body_type.name} without protection",
                "rejections of this CA are unprotected, and base stations are told systemFailure instead",
                'upstreams.{name}.dialect, or tolerate = ["unprotected_rejection"]',
                Verdict.warning,
            )
        if not self.is_ejbca:
            return self._result(
                tried,
                "error without protection",
                "the CA protects no errors, or not this one: base stations are told systemFailure in its place",
                "the CA: have it protect its errors; its log says whether it took the message for this RA's",
                Verdict.warning,
            )
        recipient_der = name_of(self.upstream.recipient_der) or b"\x30\x00"
        if any(same_name(item.subject_der, recipient_der) for item in self.authorities):
            return self._result(
                tried,
                "error without protection",
                "EJBCA before 8 protects no errors; from 8 on it does if the recipient is a CA it has",
                "upstreams.{name}.recipient = subject of the issuing CA, as EJBCA shows it; EJBCA alias: defaultca",
                Verdict.warning,
            )
        return self._result(
            tried,
            "error without protection",
            "the recipient names no CA of this EJBCA",
            "upstreams.{name}.recipient = subject of the issuing CA; EJBCA alias: defaultca = the same",
        )

    def _not_believed(self, tried: str, message: PKIMessage, error: CMPError) -> Result:
        if mac_protected(message):
            return self._result(
                tried,
                printable(f"protected by a MAC: {error.detail}", _TEXT_CHARS),
                "the CA protects its answers with a shared secret, and this one is not known here",
                "[upstreams.{name}.mac]: reference and secret; EJBCA alias: responseprotection = signature",
            )
        signer = next(
            (
                item
                for item in readable_certificates(message.extra_certs)
                if same_name(item.subject_der, message.header.sender_name_der or b"\x30\x00")
            ),
            None,
        )
        came_back = error.detail
        if signer is None:
            return self._result(
                tried,
                came_back,
                "nobody can tell who answered: the CA sends no certificate along",
                "upstreams.{name}.ca_certificate_paths: add the CA's certificate",
            )
        if signer.is_ca:
            return self._result(
                tried,
                came_back,
                f"the CA signs with its own certificate ({signer.subject}), which is not known here",
                "upstreams.{name}.ca_certificate_paths: add this CA certificate; or trust_anchors_paths: its root",
            )
        return self._result(
            tried,
            came_back,
            f"what {signer.subject} signs is not trusted here",
            "upstreams.{name}.trust_anchors_paths: the root of this certificate, if it speaks for the CA",
        )

    def _result(
        self,
        tried: str,
        came_back: str,
        cause: str = "",
        setting: str = "",
        verdict: Verdict = Verdict.fault,
    ) -> Result:
        name = self.upstream.name
        if not self.is_ejbca:
            cause, setting = of_other_cas(cause), of_other_cas(setting)
        return Check(f"upstream {name}", tried).result(
            verdict, came_back, cause, setting.replace("{name}", name)
        )


def shown_by(response: ProbeResponse) -> list[Certificate]:
    """Return the certificates that came with an answer to prove it; those that do not parse are left out."""
    return readable_certificates(response.message.extra_certs)


# --- of the clocks --------------------------------------------------------------------------------------------


def of_clock(name: str, source: str, skew: timedelta) -> Result:
    """Say how far the CA's clock is from ours.

    Args:
        source: Where the time was.
        skew: Positive if the CA's is ahead.
    """
    subject, tried = f"upstream {name}", f"clock ({source})"
    seconds = round(abs(skew).total_seconds())
    if abs(skew) <= SKEW_NOTICED:
        return Result(subject, tried, f"{seconds} s apart")
    return Check(subject, tried).result(
        Verdict.fault if abs(skew) > SKEW_FATAL else Verdict.warning,
        f"the CA's is {seconds} s {'ahead' if skew > timedelta() else 'behind'}",
        "one of the two clocks is wrong: messages get badTime, new certificates are not valid yet",
        "the clock of either machine (NTP)",
    )
