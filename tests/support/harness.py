"""A whole gateway in memory for tests: real pipeline, real crypto, a memory store, and a CA that obeys a script."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    CertRepMessage,
    CertResponse,
    PKIStatusInfo,
    RevRepContent,
    cert_rep_body,
    cert_rep_message,
    gen_msg_body,
    gen_msg_content,
    nested_messages,
    rev_rep_body,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.crmf import cert_req_messages, certification_request
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, PKIHeader, PKIMessage, assemble
from ra_gateway.cmp.names import NULL_DN, directory_name, general_names, rfc4514
from ra_gateway.cmp.protection import Credential as CMPCredential
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.responder import reply_header
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import DeviceIdentity, RequestOptions, operator_trust
from ra_gateway.events import Component, EventSink, Fact, RequestHandled
from ra_gateway.ra.endpoints import Endpoint, Upstream
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.ports import Inventory, InventoryEntry, TransactionStore
from ra_gateway.ra.services import Services
from ra_gateway.ra.signer_status import NOBODY_ASKED, SignerStatus
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.pki import Credential, OperatorPKI, VendorPKI, certificate_der, make_key


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: datetime | None = None) -> None:
        self.now = start or datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@dataclass(slots=True)
class Answer:
    """What the scripted CA is about to send; a script may change any of it."""

    request: PKIMessage
    header: PKIHeader
    body_der: bytes
    credential: CMPCredential
    extra_certs: tuple[bytes, ...]
    protected: bool = True
    octets: bytes | None = None
    """Sent instead of a message, when set."""

    @property
    def content(self) -> CertRepMessage:
        return cert_rep_message(asn1.content(asn1.element(self.body_der)))

    def set_content(self, content: CertRepMessage) -> None:
        self.body_der = cert_rep_body(BodyType(self.body_der[0] & 0x1F), content)

    def set_response(self, **changes: Any) -> None:
        """Change fields of the one CertResponse."""
        content = self.content
        self.set_content(replace(content, responses=(replace(content.responses[0], **changes),)))

    def reject(self, *fail_info: Any, text: str = "no") -> None:
        """Turn the answer into a rejection."""
        self.set_response(
            status_info=PKIStatusInfo(PKIStatus.rejection, (text,), tuple(fail_info)),
            certificate_der=None,
        )


Script = Callable[[Answer], None]


class Receiving:
    """What keeps the octets that it was sent."""

    received: list[bytes]

    @property
    def messages(self) -> list[PKIMessage]:
        """What it was sent, decoded."""
        return [PKIMessage.from_der(der) for der in self.received]


@dataclass(slots=True)
class ScriptedCA(Receiving):
    """A CA behind the port: issues whatever is asked for, unless its script says otherwise.

    Args:
        script: Changes an answer before it is signed.
        failure: Raised instead of an answer, as often as `failures` says.
        failure_loses_answer: Whether the message was processed before the failure: only the answer is lost.
        gate: When set, answers wait until it is set.
        replays: Whether an identical repeat gets the first answer again, as the bundled CA does it.
    """

    operator: OperatorPKI
    clock: ManualClock
    script: Script = lambda answer: None
    failure: BaseException | None = None
    failures: int = 0
    failure_loses_answer: bool = False
    gate: asyncio.Event | None = None
    replays: bool = False
    answered: dict[tuple[bytes, bytes], bytes] = field(default_factory=dict)
    grant_implicit: bool = True
    received: list[bytes] = field(default_factory=list)
    issued: list[Certificate] = field(default_factory=list)

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        self.received.append(der)
        if self.failures > 0 and self.failure is not None:
            self.failures -= 1
            if self.failure_loses_answer:
                await self._respond(der)
            raise self.failure
        if self.gate is not None:
            await self.gate.wait()
        return await self._respond(der)

    async def _respond(self, der: bytes) -> bytes:
        request = PKIMessage.from_der(der)
        key = (request.header.transaction_id or b"", request.body_der)
        if self.replays and key in self.answered:
            return self.answered[key]
        self.answered[key] = await self._process(request)
        return self.answered[key]

    async def _process(self, request: PKIMessage) -> bytes:
        if request.body_type is BodyType.nested:
            request = PKIMessage.from_der(nested_messages(request.body_content)[0])
        answer = self._answer(request)
        self.script(answer)
        if answer.octets is not None:
            return answer.octets
        if not answer.protected:
            return assemble(answer.header.to_der(), answer.body_der, None, answer.extra_certs)
        return await protect(answer.header, answer.body_der, answer.credential, answer.extra_certs)

    def _answer(self, request: PKIMessage) -> Answer:
        credential = cmp_credential(self.operator.cmp_signer)
        header = reply_header(
            request.header, sender_nonce=secrets.token_bytes(16), now=self.clock()
        )
        if request.body_type is BodyType.certConf:
            body_der = PKICONF_BODY
        elif request.body_type is BodyType.rr:
            body_der = rev_rep_body(RevRepContent((PKIStatusInfo(PKIStatus.accepted),)))
        elif request.body_type is BodyType.genm:
            (question,) = gen_msg_content(request.body_content)
            body_der = gen_msg_body(BodyType.genp, [replace(question, value_der=None)])
        else:
            body_der = self._issue(request)
            if request.header.implicit_confirm and self.grant_implicit:
                header = replace(header, general_info=(IMPLICIT_CONFIRM,))
        root = certificate_der(self.operator.root.certificate)
        return Answer(request, header, body_der, credential, (*credential.certificates, root))

    def _issue(self, request: PKIMessage) -> bytes:
        if request.body_type is BodyType.p10cr:
            asked = certification_request(request.body_content)
        else:
            asked = cert_req_messages(request.body_content)[0]
        template = asked.template
        subject = rfc4514(template.subject_der or NULL_DN) or x509.Name([])
        san = template.extension("2.5.29.17")
        # Who asks for a key gets a certificate for one that nobody has.
        key: Any = make_key("p256").public_key()
        if template.spki_der is not None:
            key = load_der_public_key(template.spki_der)
        issued = self.operator.issuing.sign(
            subject,
            key,
            san=[] if san is None else list(general_names(san.value)),
            key_usage=["digitalSignature"],
        )
        certificate = cmp_certificate(issued)
        self.issued.append(certificate)
        response = CertResponse(
            asked.cert_req_id, PKIStatusInfo(PKIStatus.accepted), certificate.der
        )
        return cert_rep_body(CERT_RESPONSE_TO[request.body_type], CertRepMessage((response,)))

    async def close(self) -> None:
        return None


Changeable = TypeVar("Changeable", Endpoint, Upstream)


def changed(item: Changeable, **fields: Any) -> Changeable:
    """An endpoint or upstream with other fields, or with other ones of its settings."""
    known = type(item.settings).model_fields
    settings = {key: fields.pop(key) for key in known if key in fields}
    return replace(item, **{"settings": item.settings.model_copy(update=settings), **fields})


ANY_IDENTITY = IdentityRules(allowed_subjects=("*",), allowed_sans=("*",))


@dataclass(slots=True)
class World:
    """One gateway with everything around it; change `endpoint` or `upstream` with the methods."""

    vendor: VendorPKI
    operator: OperatorPKI
    clock: ManualClock
    ca: ScriptedCA
    store: TransactionStore
    endpoint: Endpoint
    gateway: Gateway
    inventory: Inventory | None = None
    events: list[RequestHandled] = field(default_factory=list)

    @classmethod
    def make(
        cls,
        vendor: VendorPKI,
        operator: OperatorPKI,
        *,
        rules: HeaderRules | None = None,
        identity: IdentityRules = ANY_IDENTITY,
        inventory: Inventory | None = None,
        vendor_domain: dict[str, Any] | None = None,
        endpoint: dict[str, Any] | None = None,
        upstream: dict[str, Any] | None = None,
        store: TransactionStore | None = None,
        clock: ManualClock | None = None,
        ca: ScriptedCA | None = None,
    ) -> World:
        """Build a world.

        Args:
            vendor_domain, endpoint, upstream: Fields of `TrustDomain`, `Endpoint`, `Upstream` to set, of the last
                with those of its settings.
        """
        clock = clock or ManualClock()
        ca = ca or ScriptedCA(operator, clock)
        operator_domain = TrustDomain(
            "operator",
            DomainKind.operator,
            (cmp_certificate(operator.root.certificate),),
            (cmp_certificate(operator.issuing.certificate),),
        )
        acme = TrustDomain(
            **{
                "name": "acme",
                "kind": DomainKind.vendor,
                "anchors": (cmp_certificate(vendor.root.certificate),),
                **(vendor_domain or {}),
            }
        )
        world_upstream = changed(
            Upstream(
                "scripted",
                ca,
                directory_name(cmp_certificate(operator.issuing.certificate).subject_der),
                trust=operator_domain,
                issuing=operator_domain,
            ),
            **(upstream or {}),
        )
        world_endpoint = changed(
            Endpoint(
                "ran",
                world_upstream,
                vendors=(acme,),
                identities={acme.name: identity},
                operator=operator_domain,
                rules=rules or HeaderRules(),
            ),
            **{"wait_after_seconds": 0.0, **(endpoint or {})},
        )
        store = store or MemoryStore(clock, max_transactions=1000)
        events: list[RequestHandled] = []
        gateway = make_gateway(world_endpoint, operator, store, clock, events, inventory)
        return cls(vendor, operator, clock, ca, store, world_endpoint, gateway, inventory, events)

    def second_gateway(self, endpoint: Endpoint | None = None) -> Gateway:
        """Another node on the same store, perhaps configured otherwise."""
        return make_gateway(
            endpoint or self.endpoint,
            self.operator,
            self.store,
            self.clock,
            self.events,
            self.inventory,
        )

    def device(self, serial: str = "ENB-1", key: Any = "p256", **options: Any) -> Credential:
        """A base station as it left the factory."""
        return self.vendor.device(serial, key, **options)

    def enrollment(
        self, credential: Credential, *, provisioned: bool = True, **options: Any
    ) -> Enrollment:
        """One operation of a base station; options as of `RequestOptions`."""
        options.setdefault("subject", "CN=enb-1.ran.example.net")
        if options.get("body_type") is BodyType.kur:
            options["subject"] = None
        protection_key = options.pop("protection_key", None)
        key = options.pop("new_key", None) or (None if protection_key else make_key("p256"))
        root = cmp_certificate(self.operator.root.certificate)
        return Enrollment(
            DeviceIdentity(
                cmp_credential(credential), operator_trust(root) if provisioned else None
            ),
            key,
            RequestOptions(**options),
            clock=self.clock,
            random_octets=secrets.token_bytes,
            protection_key=protection_key,
        )

    async def post(
        self, der: bytes, *, gateway: Gateway | None = None, operation: str = ""
    ) -> bytes:
        """Send octets to the gateway and return the answer's."""
        reply = await (gateway or self.gateway).handle(
            der, endpoint=self.endpoint.name, operation=operation, peer="192.0.2.7"
        )
        return reply.der

    async def ask(self, der: bytes, **options: Any) -> PKIMessage:
        """Send octets and decode the answer."""
        return PKIMessage.from_der(await self.post(der, **options))


def handled_only(take: Callable[[RequestHandled], object]) -> EventSink:
    """A sink of how the gateway answered each message; other facts are left out."""

    def sink(event: Fact) -> None:
        if isinstance(event, RequestHandled) and event.by is Component.gateway:
            take(event)

    return sink


def make_gateway(
    endpoint: Endpoint,
    operator: OperatorPKI,
    store: TransactionStore,
    clock: ManualClock,
    events: list[RequestHandled],
    inventory: Inventory | None = None,
    credential: CMPCredential | None = None,
    sink: Callable[[RequestHandled], object] | None = None,
    signer_status: SignerStatus = NOBODY_ASKED,
) -> Gateway:
    """Wire a gateway; its credential is the operator's RA and its sink the list, unless others are given."""
    credential = credential or cmp_credential(operator.ra)
    kept: Any = store if isinstance(store, MemoryStore | RedisStore) else None
    return Gateway(
        Services(
            endpoints={endpoint.name: endpoint},
            credential=lambda: credential,
            store=store,
            schedule=kept,
            approvals=kept,
            confirmation_records=kept,
            device_records=kept,
            inventory=inventory,
            clock=clock,
            monotonic=time.monotonic,
            random_octets=secrets.token_bytes,
            sink=handled_only(sink or events.append),
            signer_status=signer_status,
        )
    )


@dataclass
class ListedDevices:
    """An inventory in memory; `asked` is what it was asked for."""

    entries: dict[tuple[str, str], InventoryEntry] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def find(self, domain: str, identity: str) -> InventoryEntry | None:
        self.asked.append((domain, identity))
        return self.entries.get((domain, identity))


MakeWorld = Callable[..., World]
"""Makes a world of the session's PKIs; the arguments are those of `World.make`."""
