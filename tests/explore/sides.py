"""The other sides of a gateway as values: a CA with its ledger, a store by its contract, the project's device."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.serialization import load_der_public_key

from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    CertRepMessage,
    CertResponse,
    PKIStatusInfo,
    RevRepContent,
    cert_confirm_content,
    cert_rep_body,
    error_body,
    rev_rep_body,
    rev_req_content,
)
from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.crmf import cert_req_messages
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import NULL_DN, directory_name, rfc4514
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.cmp.responder import reply_header
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.errors import EnrollmentFailed, EnrollmentRefused
from ra_gateway.device.values import DeviceIdentity, Done, RequestOptions, operator_trust
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.ra.begun import Begun
from ra_gateway.ra.confirmation_records import ConfirmationRecord
from ra_gateway.ra.endpoints import Endpoint, Upstream
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.services import Services
from ra_gateway.ra.settings import CertConf, EndpointSettings, Unconfirmed, UpstreamSettings
from ra_gateway.ra.transaction import Transaction, TransactionKey
from tests.explore.processes import (
    BEGINNING,
    ENDPOINT,
    Call,
    Process,
    Raised,
    RememberedSigner,
    drawn,
    moment,
)
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.pki import OperatorPKI, VendorPKI, certificate_der, make_key

UNAVAILABLE_SECONDS: Final = 5.0
"""After which a device tries again that was told systemUnavail."""

LIFETIME: Final = timedelta(minutes=10)
"""Of transactions: longer than a device may take to confirm."""

PATIENCE: Final = 2
"""So often a device is told systemUnavail for one message before it begins anew."""


def finished(work: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine returns that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


@dataclass(frozen=True)
class Setting:
    """What is explored.

    Args:
        certconf, unconfirmed, replays: Of the CA, as they are configured.
        patience_seconds: `wait_after_seconds`: a device whose CA is slower is told to wait, and polls.
    """

    name: str
    certconf: CertConf
    unconfirmed: Unconfirmed
    replays: bool
    patience_seconds: float = 0.0

    @property
    def ca_hears(self) -> bool:
        """Whether certConf reaches the CA, which revokes of its own accord what it does not hear of."""
        return self.certconf is CertConf.forward


# --- a CA -----------------------------------------------------------------------------------------------------


class Issued(NamedTuple):
    """A certificate in the CA's ledger."""

    transaction_id: bytes
    der: bytes
    confirmed: bool = False
    revoked: bool = False


class Ledger(NamedTuple):
    """What a CA remembers.

    Args:
        answers: By request, what a CA that replays would answer it with once more.
    """

    issued: tuple[Issued, ...] = ()
    answers: tuple[tuple[bytes, bytes], ...] = ()


# --- a store --------------------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """What a store keeps; what has expired stays here, and is not found any more."""

    transactions: tuple[tuple[TransactionKey, Transaction], ...] = ()
    agenda: tuple[tuple[TransactionKey, datetime], ...] = ()
    records: tuple[tuple[bytes, bytes], ...] = ()


WRITES: Final = frozenset({"create", "replace", "add", "remove", "note_confirmation"})


def _with(pairs: tuple[tuple[Any, Any], ...], key: Any, value: Any) -> tuple[tuple[Any, Any], ...]:
    rest = tuple(pair for pair in pairs if pair[0] != key)
    return rest if value is None else (*rest, (key, value))


def _live(stored: Stored, key: TransactionKey, at: float) -> Transaction | None:
    live: Transaction | None = _get(stored.transactions, key)
    return None if live is None or live.expires_at <= moment(at) else live


def _get(pairs: tuple[tuple[Any, Any], ...], key: Any) -> Any:
    return next((value for each, value in pairs if each == key), None)


def stored_after(
    stored: Stored, call: Call, at: float, *, compares: bool = True
) -> tuple[Stored, Any]:
    """Return what a store keeps after a call, and the call's result, as `ra.ports` has them.

    Args:
        compares: False breaks compare and set.
    """
    match call.name, call.arguments:
        case "create", (transaction,):
            live = _live(stored, transaction.key, at)
            if live is not None:
                return stored, live
            kept = _with(stored.transactions, transaction.key, transaction)
            return stored._replace(transactions=kept), None
        case "replace", (transaction,):
            live = _live(stored, transaction.key, at)
            if compares and (live is None or live.version != transaction.version - 1):
                return stored, Raised("stale")
            kept = _with(stored.transactions, transaction.key, transaction)
            return stored._replace(transactions=kept), None
        case "load" | "wait", (key, *_):
            return stored, _live(stored, key, at)
        case "find", (transaction_id,):
            keys = [key for key, _ in stored.transactions if key.transaction_id == transaction_id]
            return stored, tuple(filter(None, (_live(stored, key, at) for key in keys)))
        case "add", (key, due_at):
            return stored._replace(agenda=_with(stored.agenda, key, due_at)), None
        case "remove", (key,):
            return stored._replace(agenda=_with(stored.agenda, key, None)), None
        case "due", (now,):
            return stored, tuple(key for key, due_at in stored.agenda if due_at <= now)
        case "note_confirmation", (certificate, note):
            octets = _get(stored.records, certificate)
            before = (
                ConfirmationRecord() if octets is None else ConfirmationRecord.from_bytes(octets)
            )
            after = before.after(note.transaction, note.status, note.until, moment(at)).to_bytes()
            return stored._replace(records=_with(stored.records, certificate, after)), after
    raise AssertionError(f"no store knows {call.name}")


# --- a device -------------------------------------------------------------------------------------------------


class DeviceView(NamedTuple):
    """What a device does next.

    Args:
        ended: "" while it has something to send; "done", "refused", or why it cannot go on.
        der: What it sends; once it is done its certificate.
        after_seconds: How long it waits before that.
    """

    ended: str
    der: bytes
    after_seconds: float = 0.0
    body_type: str = ""


@dataclass
class Sides:
    """Everything around the gateways of one setting."""

    setting: Setting
    vendor: VendorPKI
    operator: OperatorPKI
    _answers: dict[tuple[Ledger, bytes, float], tuple[Ledger, bytes]] = field(default_factory=dict)
    _views: dict[tuple[int, tuple[bytes, ...]], DeviceView] = field(default_factory=dict)

    def __post_init__(self) -> None:
        setting, operator = self.setting, self.operator
        self._ra = _remembering(cmp_credential(operator.ra))
        self._ca = _remembering(cmp_credential(operator.cmp_signer))
        self._root = cmp_certificate(operator.root.certificate)
        issuing = cmp_certificate(operator.issuing.certificate)
        domain = TrustDomain("operator", DomainKind.operator, (self._root,), (issuing,))
        anchors = (cmp_certificate(self.vendor.root.certificate),)
        acme = TrustDomain("acme", DomainKind.vendor, anchors)
        self._upstream = Upstream(
            "ca",
            None,  # type: ignore[arg-type]  # each process has its own
            directory_name(issuing.subject_der),
            trust=domain,
            issuing=domain,
            settings=UpstreamSettings(certconf=setting.certconf, unconfirmed=setting.unconfirmed),
            replays_repeats=setting.replays,
        )
        self._endpoint = Endpoint(
            ENDPOINT,
            self._upstream,
            vendors=(acme,),
            identities={acme.name: IdentityRules(allowed_subjects=("*",), allowed_sans=("*",))},
            operator=domain,
            settings=EndpointSettings(wait_after_seconds=setting.patience_seconds),
        )
        self._factory = cmp_credential(self.vendor.device("ENB-1", make_key("ed25519")))
        self._keys = [make_key("ed25519") for _ in range(8)]

    def services(self, process: Process) -> Services:
        """Return a gateway's services that ask outside through its process."""
        outside: Any = process.outside
        upstream = dataclasses.replace(self._upstream, core=outside)
        endpoint = dataclasses.replace(self._endpoint, upstream=upstream)
        return Services(
            endpoints={ENDPOINT: endpoint},
            credential=lambda: self._ra,
            store=outside,
            schedule=outside,
            confirmation_records=outside,
            clock=process.clock,
            monotonic=process.monotonic,
            random_octets=process.random_octets,
            sink=process.sink,
            lifetime=LIFETIME,
            begun=Begun(),
        )

    # --- the CA

    def answer(self, ledger: Ledger, der: bytes, at: float) -> tuple[Ledger, bytes]:
        """Return what the CA remembers once it has answered a message, and the answer."""
        known = ledger, der, at
        if known not in self._answers:
            self._answers[known] = self._answer(ledger, der, at)
        return self._answers[known]

    def _answer(self, ledger: Ledger, der: bytes, at: float) -> tuple[Ledger, bytes]:
        request = PKIMessage.from_der(der)
        key = drawn(request.header.transaction_id, request.body_der)
        if self.setting.replays and (answer := _get(ledger.answers, key)) is not None:
            return ledger, answer
        match request.body_type:
            case BodyType.certConf:
                ledger, body_der = self._confirmed(ledger, request)
            case BodyType.rr:
                ledger, body_der = self._revoked(ledger, request)
            case _:
                ledger, body_der = self._issued(ledger, request)
        nonce = drawn("CA", der, len(ledger.issued), at)[:16]
        header = reply_header(request.header, sender_nonce=nonce, now=moment(at))
        extra = (*self._ca.certificates, self._root.der)
        answer = finished(protect(header, body_der, self._ca, extra))
        if self.setting.replays:
            ledger = ledger._replace(answers=_with(ledger.answers, key, answer))
        return ledger, answer

    def _issued(self, ledger: Ledger, request: PKIMessage) -> tuple[Ledger, bytes]:
        transaction_id = request.header.transaction_id or b""
        asked = cert_req_messages(request.body_content)[0]
        template = asked.template
        serial = int.from_bytes(drawn(transaction_id, len(ledger.issued))[:8], "big")
        key: Any = load_der_public_key(template.spki_der or b"")
        issued = self.operator.issuing.sign(
            rfc4514(template.subject_der or NULL_DN) or "",
            key,
            key_usage=["digitalSignature"],
            serial_number=serial,
        )
        der = certificate_der(issued)
        entry = Issued(transaction_id, der)
        response = CertResponse(asked.cert_req_id, PKIStatusInfo(PKIStatus.accepted), der)
        body_der = cert_rep_body(CERT_RESPONSE_TO[request.body_type], CertRepMessage((response,)))
        return ledger._replace(issued=(*ledger.issued, entry)), body_der

    def _confirmed(self, ledger: Ledger, request: PKIMessage) -> tuple[Ledger, bytes]:
        (status,) = cert_confirm_content(request.body_content)
        issued = list(ledger.issued)
        for place, entry in enumerate(issued):
            if hashlib.sha256(entry.der).digest() == status.cert_hash and not entry.revoked:
                takes = status.takes_certificate
                issued[place] = entry._replace(confirmed=takes, revoked=not takes)
                return ledger._replace(issued=tuple(issued)), PKICONF_BODY
        refusal = PKIStatusInfo(PKIStatus.rejection, ("unknown",), (PKIFailureInfo.badCertId,))
        return ledger, error_body(refusal)

    def _revoked(self, ledger: Ledger, request: PKIMessage) -> tuple[Ledger, bytes]:
        (details,) = rev_req_content(request.body_content)
        issued, info = list(ledger.issued), PKIStatusInfo(PKIStatus.accepted)
        for place, entry in enumerate(issued):
            if load_certificate(entry.der).serial_number == details.template.serial_number:
                if entry.revoked:
                    revoked = (PKIFailureInfo.certRevoked,)
                    info = PKIStatusInfo(PKIStatus.rejection, ("revoked",), revoked)
                issued[place] = entry._replace(revoked=True)
        return ledger._replace(issued=tuple(issued)), rev_rep_body(RevRepContent((info,)))

    # --- the device

    def device(self, operation: int, answers: tuple[bytes, ...]) -> DeviceView:
        """Return what the device does next that got these answers in an operation, the first one being 1."""
        known = operation, answers
        if known not in self._views:
            self._views[known] = finished(self._follow(operation, answers))
        return self._views[known]

    async def _follow(self, operation: int, answers: tuple[bytes, ...]) -> DeviceView:
        draws = iter(range(100))
        enrollment = Enrollment(
            DeviceIdentity(self._factory, operator_trust(self._root)),
            self._keys[operation % len(self._keys)],
            RequestOptions(subject="CN=enb-1.ran.example.net", message_time=False),
            clock=lambda: BEGINNING,
            random_octets=lambda size: drawn("device", operation, next(draws))[:size],
        )
        der, after = await enrollment.request(), 0.0
        for answer in answers:
            try:
                step = await enrollment.receive(answer)
            except EnrollmentRefused as refusal:
                return DeviceView("refused", b"", body_type=str(refusal))
            except EnrollmentFailed as failure:
                return DeviceView(f"cannot go on: {failure}", b"")
            if isinstance(step, Done):
                return DeviceView("done", step.certificate.der)
            der, after = step.der, float(step.after_seconds)
        return DeviceView("", der, after, PKIMessage.from_der(der).body_type.name)


def _remembering(credential: Credential) -> Credential:
    return dataclasses.replace(credential, signer=RememberedSigner(credential.signer))
