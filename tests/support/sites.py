"""A gateway that serves in the tests' process, and base stations that talk to it over HTTP."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import aiohttp

from ra_gateway.app.application import Application
from ra_gateway.clocks import now
from ra_gateway.cmp.algorithms import digest
from ra_gateway.cmp.bodies import CertStatus, PKIStatusInfo, cert_confirm_body, cert_rep_message
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import ANYONE, PKIHeader, PKIMessage, body
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.cmp.verification import authenticate_answer
from ra_gateway.config.reading import load
from ra_gateway.device.client import post
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import DeviceIdentity, Done, RequestOptions, operator_trust
from ra_gateway.events import EventSink, RequestHandled, unheard
from ra_gateway.keys import load_certificates
from ra_gateway.logs import fan_out
from tests.support.credentials import cmp_credential
from tests.support.harness import handled_only
from tests.support.pki import OperatorPKI, VendorPKI, make_key, write_certificates
from tests.support.requests import csr

NAME: Final = "enb-1.ran.example.net"


SUBJECT: Final = f"CN={NAME}"


EVERY_TYPE: Final = '["ir", "cr", "kur", "p10cr", "rr"]'


@dataclass
class Site:
    """A gateway that serves, and its CA.

    Args:
        url: Where base stations post.
        refused_subject: A subject that the CA refuses, once `refuse` was called.
        take_away: Makes the CA unreachable; None where it goes with the gateway.
        revoked: Serial numbers of what the CA has revoked.
        device_key: The one key that the CA has a certificate for; None where it certifies any.
        pause_seconds: Between two operations. The mock server closes its connection after each, and a request
            that meets that on its way may have been seen, so that it is not sent again.
    """

    application: Application
    events: list[RequestHandled]
    url: str
    vendor: VendorPKI
    root: Certificate
    session: aiohttp.ClientSession
    revoked: Callable[[], set[int]]
    refuse: Callable[[], Mapping[str, Any]]
    take_away: Callable[[], Awaitable[None]] | None = None
    device_key: Any = None
    pause_seconds: float = 0.0

    @property
    def event(self) -> RequestHandled:
        """What the operator was told last of a base station's message."""
        return [event for event in self.events if event.endpoint == "ran"][-1]

    def device(self, serial: str = "ENB-1") -> Credential:
        """A base station as it left the factory."""
        return cmp_credential(self.vendor.device(serial))

    def enrollment(
        self, identity: DeviceIdentity, body_type: BodyType, *, takes: bool = True, **options: Any
    ) -> Enrollment:
        """One ir, cr or kur."""
        subject = options.pop("subject", None if body_type is BodyType.kur else SUBJECT)
        return Enrollment(
            identity,
            self.device_key or make_key("p256"),
            RequestOptions(body_type=body_type, subject=subject, **options),
            clock=now,
            random_octets=secrets.token_bytes,
            find_fault=lambda certificate: "" if takes else "not wanted",
        )

    def identity(self, credential: Credential | None = None) -> DeviceIdentity:
        """A base station that knows the operator's root."""
        return DeviceIdentity(credential or self.device(), operator_trust(self.root))

    async def run(self, enrollment: Enrollment) -> Done:
        """Go through an operation to its end."""
        der = await enrollment.request()
        while True:
            step = await enrollment.receive(await post(self.session, self.url, der))
            if isinstance(step, Done):
                return step
            der = step.der

    async def ask(self, der: bytes, known: tuple[Certificate, ...] = ()) -> PKIMessage:
        """Send a message; whatever the answer says, the RA has signed it for this request.

        Args:
            known: Signers of answers before.
        """
        request = PKIMessage.from_der(der)
        answer = PKIMessage.from_der(await post(self.session, self.url, der))
        trust: TrustDomain = operator_trust(self.root)
        authenticate_answer(answer, trust, known, HeaderRules(), now())
        assert answer.header.transaction_id == request.header.transaction_id
        assert answer.header.recip_nonce == request.header.sender_nonce
        return answer

    async def message(self, credential: Credential, body_der: bytes, **header: Any) -> bytes:
        """A message under a credential."""
        usual = PKIHeader(
            sender_der=credential.sender_der,
            recipient_der=ANYONE,
            message_time=now(),
            transaction_id=secrets.token_bytes(16),
            sender_nonce=secrets.token_bytes(16),
        )
        return await protect(
            replace(usual, **header), body_der, credential, credential.certificates
        )

    async def p10cr(self, credential: Credential, subject: str = SUBJECT) -> PKIMessage:
        """Send a PKCS#10, with the name that every base station here has."""
        request = csr(self.device_key or make_key("p256"), subject, NAME)
        return await self.ask(await self.message(credential, body(BodyType.p10cr, request)))

    async def confirm(
        self, credential: Credential, answer: PKIMessage, *, takes: bool = True
    ) -> PKIMessage:
        """Send certConf for a certificate."""
        (response,) = cert_rep_message(answer.body_content).responses
        info = None if takes else PKIStatusInfo(PKIStatus.rejection, ("not wanted",))
        hashed = digest("sha256", response.certificate_der or b"")
        status = CertStatus(hashed, response.cert_req_id, info)
        der = await self.message(
            credential,
            cert_confirm_body(status),
            transaction_id=answer.header.transaction_id,
            recip_nonce=answer.header.sender_nonce,
        )
        # A pkiConf comes without the certificates of the answer before (TS 33.310 9.5.4.5).
        return await self.ask(der, (Certificate.from_der(answer.extra_certs[0]),))

    async def enrolled(self) -> Done:
        """A base station with an operator certificate of this CA."""
        done = await self.run(self.enrollment(self.identity(), BodyType.ir))
        await asyncio.sleep(self.pause_seconds)
        return done


@asynccontextmanager
async def served(
    path: Path, vendor: VendorPKI, root_path: Path, *, sink: EventSink = unheard, **fields: Any
) -> AsyncIterator[Site]:
    """Serve a configuration in this process.

    Args:
        sink: Takes all facts, besides those that the site keeps.
    """
    events: list[RequestHandled] = []
    application = Application(load(path), sink=fan_out(handled_only(events.append), sink))
    host, port = await application.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Site(
                application,
                events,
                f"http://{host}:{port}/.well-known/cmp",
                vendor,
                load_certificates(root_path, "root")[0],
                session,
                **fields,
            )
    finally:
        await application.stop()


def configuration(
    directory: Path, vendor: VendorPKI, operator: OperatorPKI, upstreams: str, endpoint: str = ""
) -> Path:
    """Write a gateway's configuration, and the files that it names."""
    operator.write(directory)
    write_certificates(directory / "acme.pem", vendor.root.certificate)
    path = directory / "gateway.toml"
    path.write_text(
        "[server]\nlisten_port = 0\n"
        '[ra]\ncertificate_path = "ra.pem"\nkey_path = "ra.key"\nchain_paths = ["issuing.pem"]\n'
        '[operator]\nanchors_paths = ["root.pem"]\nintermediates_paths = ["issuing.pem"]\n'
        '[vendors.acme]\nanchors_paths = ["acme.pem"]\nbody_types = ["ir", "cr", "p10cr"]\n'
        '[vendors.acme.identity]\nallowed_subjects = ["*"]\nallowed_sans = ["*"]\n'
        '[endpoints.ran]\npaths = ["/.well-known/cmp"]\nvendors = ["acme"]\nupstream = "main"\n'
        f"body_types = {EVERY_TYPE}\n{endpoint}\n{upstreams}\n"
    )
    return path
