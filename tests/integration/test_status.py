"""The status of certificates over HTTP: `openssl` believes it, caches may keep it, and bad requests get a status."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from aiohttp import ClientSession
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from multidict import CIMultiDictProxy
from yarl import URL

from ra_gateway.ca.crl import CRLPublisher, CRLSettings
from ra_gateway.ca.ocsp import OCSPAnswer, OCSPResponder, OCSPSettings
from ra_gateway.ca.records import Reason, StoredCRL
from ra_gateway.ca.status import CAStatus
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.errors import StoreUnavailable
from ra_gateway.server.status import StatusListener
from tests.support import pki
from tests.support.openssl import openssl_path
from tests.support.patience import PATIENCE_SECONDS
from tests.support.status import StatusCA, ocsp_signer, status_ca

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


# --- openssl against the whole of it --------------------------------------------------------------------------


@dataclass
class Service:
    """A CA that publishes on its status listener, and the files that openssl wants."""

    ca: StatusCA
    publisher: CRLPublisher
    directory: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def openssl(self, *args: str) -> tuple[int, str]:
        """Run openssl in the directory, while this loop serves, and return its status and all it said."""
        done = await asyncio.to_thread(
            subprocess.run,
            [openssl_path(), *args],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    async def device(self, name: str, **options: Any) -> pki.Credential:
        """Issue a certificate with pointers to the listener, and write it to NAME.pem."""
        uri = x509.UniformResourceIdentifier
        points = [
            x509.DistributionPoint(
                [uri(f"{self.url}/crl/{self.ca.issuing.id}.crl")], None, None, None
            )
        ]
        access = [
            x509.AccessDescription(
                x509.oid.AuthorityInformationAccessOID.OCSP, uri(f"{self.url}/ocsp")
            )
        ]
        credential = await self.ca.issue(
            f"CN={name},O=Example Operator",
            extensions=[
                (x509.CRLDistributionPoints(points), False),
                (x509.AuthorityInformationAccess(access), False),
            ],
            **options,
        )
        pki.write_certificates(self.directory / f"{name}.pem", credential.certificate)
        return credential

    async def fetch(self, path: str) -> bytes:
        async with ClientSession() as session, session.get(self.url + path) as response:
            assert response.status == 200
            return await response.read()

    async def fetch_crl(self, path: str, name: str) -> str:
        """Write a CRL to a PEM file, and return its name."""
        crl = x509.load_der_x509_crl(await self.fetch(path))
        (self.directory / name).write_bytes(crl.public_bytes(Encoding.PEM))
        return name


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    now = datetime.now(UTC)
    async with status_ca(tmp_path, now) as ca:
        settings = CRLSettings(
            delta_minutes=60, delta_url="http://127.0.0.1/crl/{issuer}-delta.crl"
        )
        publisher = CRLPublisher([ca.issuing], ca.ledger, ca.clock, settings)
        responder = OCSPResponder(
            [ocsp_signer(ca.issuing)], ca.ledger, ca.clock, OCSPSettings(validity_minutes=60)
        )
        root = Certificate.from_der(ca.operator.root.der)
        status = CAStatus(root, [ca.issuing], publisher, responder)
        listener = StatusListener(status, host="127.0.0.1", port=0, clock=ca.clock)
        _, port = await listener.start()
        pki.write_certificates(tmp_path / "root.pem", ca.operator.root.certificate)
        pki.write_certificates(tmp_path / "issuing.pem", ca.operator.issuing.certificate)
        pki.write_certificates(
            tmp_path / "chain.pem", ca.operator.root.certificate, ca.operator.issuing.certificate
        )
        try:
            yield Service(ca, publisher, tmp_path, port)
        finally:
            await listener.drain(1)


VERIFY = (
    "verify",
    "-x509_strict",
    "-CAfile",
    "root.pem",
    "-untrusted",
    "issuing.pem",
    "-crl_check",
)


async def test_openssl_verifies_crls(service: Service) -> None:
    """Full and delta: signature, issuer and key identifier fit."""
    await service.ca.revoke(await service.device("revoked"), Reason.keyCompromise)
    await service.publisher.publish(service.ca.issuing)
    await service.publisher.publish(service.ca.issuing, delta=True)
    for path in ("/crl/issuing.crl", f"/crl/{service.ca.issuing.id}-delta.crl"):
        name = await service.fetch_crl(path, "crl.pem")
        returncode, output = await service.openssl(
            "crl", "-in", name, "-CAfile", "chain.pem", "-verify", "-noout", "-text"
        )
        assert (returncode, "verify OK" in output, "Key Compromise" in output) == (0, True, True)


@pytest.mark.requirement(129)
async def test_openssl_checks_certificates_by_crl(service: Service) -> None:
    """It fetches the CRL from the distribution point, and knows the revoked one from the other."""
    await service.device("good")
    await service.ca.revoke(await service.device("revoked"))
    await service.publisher.refresh()
    check = (*VERIFY, "-crl_download")
    assert await service.openssl(*check, "good.pem") == (0, "good.pem: OK\n")
    returncode, output = await service.openssl(*check, "revoked.pem")
    assert (returncode, "certificate revoked" in output) == (2, True)


async def test_openssl_combines_full_and_delta_crls(service: Service) -> None:
    """What was revoked, and what was released, after the full CRL is known from the delta CRL alone."""
    held, revoked = await service.device("held"), await service.device("revoked")
    await service.ca.revoke(held, Reason.certificateHold)
    service.ca.clock.now -= timedelta(minutes=10)  # openssl looks at the machine's clock
    await service.publisher.refresh()
    service.ca.clock.now += timedelta(minutes=10)
    await service.ca.revoke(revoked)
    await service.ca.revoke(held, Reason.removeFromCRL)
    await service.publisher.refresh()
    full = await service.fetch_crl("/crl/issuing.crl", "full.pem")
    delta = await service.fetch_crl("/crl/issuing-delta.crl", "delta.pem")
    for name, by_full, by_both in (("held", 2, 0), ("revoked", 0, 2)):
        for crls, expected in (
            (("-CRLfile", full), by_full),
            (("-CRLfile", full, "-CRLfile", delta, "-use_deltas"), by_both),
        ):
            returncode, output = await service.openssl(*VERIFY, *crls, f"{name}.pem")
            assert returncode == expected, output


@pytest.mark.parametrize("nonce", ["-nonce", "-no_nonce"])
async def test_openssl_asks_by_ocsp(service: Service, nonce: str) -> None:
    """Good, revoked with its reason, and unknown; with and without a nonce; the signature is believed."""
    await service.device("good")
    await service.ca.revoke(await service.device("revoked"), Reason.keyCompromise)
    stranger = service.ca.operator.issuing.issue("CN=never recorded")
    pki.write_certificates(service.directory / "unknown.pem", stranger.certificate)
    ask = (
        *("ocsp", "-issuer", "issuing.pem", "-CAfile", "root.pem", "-verify_other", "issuing.pem"),
        *("-url", f"{service.url}/ocsp", nonce),
    )
    for name, told in (
        ("good", "good.pem: good"),
        ("revoked", "Reason: keyCompromise"),
        ("unknown", "unknown.pem: unknown"),
    ):
        returncode, output = await service.openssl(*ask, "-cert", f"{name}.pem")
        assert (returncode, told in output) == (0, True), output
        assert "Response verify OK" in output
        assert "WARNING" not in output


async def test_openssl_asks_about_several_at_once(service: Service) -> None:
    """`-cert` more than once is one request: each gets its status."""
    await service.device("good")
    await service.ca.revoke(await service.device("revoked"), Reason.keyCompromise)
    returncode, output = await service.openssl(
        *("ocsp", "-issuer", "issuing.pem", "-cert", "good.pem", "-cert", "revoked.pem"),
        *("-CAfile", "chain.pem", "-url", f"{service.url}/ocsp"),
    )
    assert returncode == 0, output
    for told in ("Response verify OK", "good.pem: good", "revoked.pem: revoked"):
        assert told in output


async def test_openssl_asks_with_another_hash(service: Service) -> None:
    """CertID with SHA-256 finds the same issuing CA."""
    await service.device("good")
    returncode, output = await service.openssl(
        *("ocsp", "-sha256", "-issuer", "issuing.pem", "-cert", "good.pem"),
        *("-CAfile", "chain.pem", "-url", f"{service.url}/ocsp"),
    )
    assert (returncode, "good.pem: good" in output) == (0, True), output


async def test_openssl_believes_an_answer_to_get(service: Service) -> None:
    """The request that openssl wrote, in a URL; the answer is verified by openssl from a file."""
    await service.device("good")
    asked = ("ocsp", "-issuer", "issuing.pem", "-cert", "good.pem", "-no_nonce")
    assert (await service.openssl(*asked, "-reqout", "request.der"))[0] == 0
    encoded = base64.b64encode((service.directory / "request.der").read_bytes()).decode()
    answer = await service.fetch(f"/ocsp/{quote(encoded, safe='')}")
    (service.directory / "answer.der").write_bytes(answer)
    returncode, output = await service.openssl(
        *asked, "-CAfile", "chain.pem", "-respin", "answer.der"
    )
    assert (returncode, "good.pem: good" in output) == (0, True), output
    assert "Response verify OK" in output


async def test_a_large_crl_arrives_whole(service: Service) -> None:
    """One of some megabytes is written in pieces, and is the one that was stored."""
    octets = bytes(range(256)) * 20_000
    crl = StoredCRL(service.ca.issuing.id, 1, None, service.ca.clock(), service.ca.clock(), octets)
    assert await service.ca.ledger.store_crl(crl)
    assert await service.fetch("/crl/issuing.crl") == octets


# --- HTTP -----------------------------------------------------------------------------------------------------


class Handler:
    """Serves what a test puts in, and notes what it is asked."""

    def __init__(self) -> None:
        self.crls = {
            ("issuing", False): StoredCRL("ab", 7, None, NOW, NOW + timedelta(days=2), b"full"),
            ("issuing", True): StoredCRL("ab", 8, 7, NOW, NOW + timedelta(minutes=3), b"delta"),
        }
        self.certificates = {"root": b"root certificate", "ab12": b"issuing certificate"}
        self.answer: OCSPAnswer | None = OCSPAnswer(b"answer", NOW, NOW + timedelta(hours=1))
        self.asked: list[bytes] = []
        self.error: Exception | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def crl(self, name: str, *, delta: bool) -> StoredCRL | None:
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return self.crls.get((name, delta))

    def certificate(self, name: str) -> bytes | None:
        return self.certificates.get(name)

    async def ocsp(self, request_der: bytes) -> OCSPAnswer | None:
        self.asked.append(request_der)
        return self.answer


class Response(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


@dataclass
class Served:
    handler: Handler
    listener: StatusListener
    session: ClientSession
    port: int

    async def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> Response:
        url = URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, url, data=body, headers=fields) as response:
            return Response(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: str) -> Response:
        return await self.send("GET", path, None, **headers)

    async def post(self, body: bytes, path: str = "/ocsp", **headers: str) -> Response:
        headers.setdefault("Content_Type", "application/ocsp-request")
        return await self.send("POST", path, body, **headers)


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[Served]:
    handler = Handler()
    listener = StatusListener(
        handler,
        host="127.0.0.1",
        port=0,
        clock=lambda: NOW + timedelta(minutes=1),
        **limits,
    )
    _, port = await listener.start()
    async with ClientSession() as session:
        try:
            yield Served(handler, listener, session, port)
        finally:
            handler.may_answer.set()
            await listener.drain(1)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as it:
        yield it


@pytest.mark.parametrize(
    "path, content_type, body, age_seconds",
    [
        ("/crl/issuing.crl", "application/pkix-crl", b"full", 300),
        ("/crl/issuing-delta.crl", "application/pkix-crl", b"delta", 120),
        ("/ca/root.cer", "application/pkix-cert", b"root certificate", 3600),
        ("/ca/ab12.cer", "application/pkix-cert", b"issuing certificate", 3600),
        ("/ocsp/cmVxdWVzdA==", "application/ocsp-response", b"answer", 59 * 60),
    ],
)
async def test_documents_and_how_long_they_keep(
    served: Served, path: str, content_type: str, body: bytes, age_seconds: int
) -> None:
    """Content type, ETag, Expires and max-age: OCSP until nextUpdate (RFC 5019 6.2), CRLs for minutes,
    since a revocation replaces them."""
    response = await served.get(path)
    assert (response.status, response.body) == (200, body)
    headers = response.headers
    assert headers["Content-Type"] == content_type
    assert headers["Server"] == "ra_gateway"
    assert headers["Cache-Control"] == (
        f"max-age={age_seconds}, public, no-transform, must-revalidate"
    )
    assert parsedate_to_datetime(headers["Expires"]) == NOW + timedelta(
        minutes=1, seconds=age_seconds
    )
    assert headers["ETag"] == f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    if "/ca/" not in path:
        assert parsedate_to_datetime(headers["Last-Modified"]) == NOW


@pytest.mark.parametrize("path", ["/crl/issuing.crl", "/ca/root.cer", "/ocsp/cmVxdWVzdA=="])
async def test_head(served: Served, path: str) -> None:
    """The headers of GET, and no body; the connection goes on."""
    got, head = await served.get(path), await served.send("HEAD", path)
    differing = {
        name
        for name in got.headers.keys() | head.headers.keys()
        if got.headers.get(name) != head.headers.get(name)
    }
    assert differing <= {"Date"}
    assert (head.status, head.body) == (200, b"")
    assert served.listener.connections_count == 1


async def test_who_has_it_is_told_so(served: Served) -> None:
    """304 by ETag, and by date where there is no ETag; then again the whole when it has changed."""
    path = "/crl/issuing.crl"
    tag = (await served.get(path)).headers["ETag"]
    for headers in (
        {"If_None_Match": tag},
        {"If_None_Match": f'"other", W/{tag}'},
        {"If_None_Match": "*"},
        {"If_Modified_Since": "Sun, 01 Mar 2026 12:00:00 GMT"},
    ):
        response = await served.get(path, **headers)
        assert (response.status, response.body) == (304, b"")
        assert response.headers["ETag"] == tag
        assert "max-age=300" in response.headers["Cache-Control"]
    served.handler.crls["issuing", False] = StoredCRL(
        "ab", 9, None, NOW + timedelta(seconds=1), NOW + timedelta(days=2), b"newer"
    )
    for headers in (
        {"If_None_Match": tag},
        {"If_None_Match": tag, "If_Modified_Since": "Sun, 01 Mar 2026 13:00:00 GMT"},
        {"If_Modified_Since": "Sun, 01 Mar 2026 12:00:00 GMT"},
    ):
        response = await served.get(path, **headers)
        assert (response.status, response.body) == (200, b"newer")


async def test_a_date_beyond_all_years_is_no_date(served: Served) -> None:
    """The document comes, and nothing fails."""
    response = await served.get(
        "/crl/issuing.crl",
        **{"If-Modified-Since": f"Sat, 01 Jan {'9' * 20} 00:00:00 GMT"},
    )
    assert response.status == 200


async def test_a_date_in_the_future_is_no_date(served: Served) -> None:
    """RFC 9110 13.1.3: who claims to have the document of tomorrow gets the one of today."""
    for path in ("/crl/issuing.crl", "/crl/issuing-delta.crl", "/ocsp/cmVxdWVzdA=="):
        for ahead in (timedelta(minutes=1, seconds=1), timedelta(days=1), timedelta(days=9000)):
            date = format_datetime(NOW + ahead, usegmt=True)
            response = await served.get(path, **{"If-Modified-Since": date})
            assert response.status == 200


async def test_an_ocsp_answer_is_not_left_out_by_its_date(served: Served) -> None:
    """Two answers of one second may differ: one of before and one of after a revocation."""
    path = "/ocsp/cmVxdWVzdA=="
    response = await served.get(path)
    date = response.headers["Last-Modified"]
    assert (await served.get(path, **{"If-Modified-Since": date})).body == response.body
    tag = response.headers["ETag"]
    assert (await served.get(path, **{"If-None-Match": tag})).status == 304


async def test_a_crl_past_its_next_update_is_not_kept(served: Served) -> None:
    """It is served, for it is the newest there is."""
    served.handler.crls["issuing", False] = StoredCRL("ab", 1, None, NOW, NOW, b"old")
    response = await served.get("/crl/issuing.crl")
    assert (response.status, response.body) == (200, b"old")
    assert "max-age=0" in response.headers["Cache-Control"]


async def test_ocsp_by_post(served: Served) -> None:
    """The handler gets the body as it came; answers to POST are not kept."""
    for path in ("/ocsp", "/ocsp/"):
        response = await served.post(b"\x00request\xff", path)
        assert (response.status, response.body) == (200, b"answer")
        assert response.headers["Content-Type"] == "application/ocsp-response"
        assert response.headers["Cache-Control"] == "no-store"
        assert "ETag" not in response.headers
    assert served.handler.asked == [b"\x00request\xff"] * 2


@pytest.mark.parametrize("encode", [quote, lambda text: text, lambda text: quote(text, safe="")])
async def test_ocsp_by_get(served: Served, encode: Any) -> None:
    """Base64 with slashes and plus signs, in percent signs or not."""
    asked = b"\xff\xef\xbe\xfb" * 12
    encoded = base64.b64encode(asked).decode()
    assert {"/", "+", "="} & set(encoded) >= {"/", "+"}
    response = await served.get(f"/ocsp/{encode(encoded)}")
    assert (response.status, served.handler.asked) == (200, [asked])


async def test_answers_that_nobody_may_keep(served: Served) -> None:
    """With a nonce, or a failure: no-store for GET as well."""
    served.handler.answer = OCSPAnswer(b"with nonce", NOW)
    response = await served.get("/ocsp/cmVxdWVzdA==")
    assert (response.status, response.body) == (200, b"with nonce")
    assert response.headers["Cache-Control"] == "no-store"
    assert "Expires" not in response.headers


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/", 404),
        ("GET", "/crl/", 404),
        ("GET", "/crl/ab.crl", 404),
        ("GET", "/crl/../ca/root.cer", 404),
        ("GET", "/crl/ISSUING.crl", 404),
        ("GET", f"/crl/{'a' * 200}.crl", 404),
        ("GET", "/ca/ef.cer", 404),
        ("GET", "/ca/root.pem", 404),
        ("GET", "/ocsp/not*base64", 400),
        ("GET", "/ocsp/cmVxdWVzdA", 400),
        ("GET", "/ocsp/%FF", 400),
        ("GET", "/ocsp/==", 400),
        ("POST", "/crl/issuing.crl", 405),
        ("DELETE", "/ca/root.cer", 405),
        ("PUT", "/ocsp", 405),
        ("GET", "/ocsp", 405),
        ("POST", "/ocsp/cmVxdWVzdA==", 405),
    ],
)
async def test_what_is_not_there(served: Served, method: str, path: str, status: int) -> None:
    """404, 405 with what is allowed, or 400; in a fixed sentence that repeats nothing of the request."""
    response = await served.send(method, path)
    assert response.status == status
    assert response.headers["Cache-Control"] == "no-store"
    assert response.body.decode() == StatusListener.refusals[response.status]  # type: ignore[index]
    if status == 405:
        allowed = "POST" if path == "/ocsp" else "GET, HEAD"
        assert response.headers["Allow"] == allowed
    assert served.handler.asked == []


@pytest.mark.parametrize(
    "body, headers, status",
    [
        (b"", {}, 400),
        (b"request", {"Content_Type": "application/pkixcmp"}, 415),
        (b"request", {"Content_Encoding": "gzip"}, 415),
        (bytes(4097), {}, 413),
    ],
)
async def test_bodies_that_are_refused(
    served: Served, body: bytes, headers: dict[str, str], status: int
) -> None:
    """Empty, of another type, compressed or too large: none reaches the responder."""
    response = await served.post(body, **headers)
    assert (response.status, served.handler.asked) == (status, [])


async def test_no_ocsp_responder(served: Served) -> None:
    """Where there is none, 404."""
    served.handler.answer = None
    assert (await served.post(b"request")).status == 404
    assert (await served.get("/ocsp/cmVxdWVzdA==")).status == 404


async def test_our_own_failures(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """503 with Retry-After while the ledger is away; 500 for a bug, and the details in the log only."""
    served.handler.error = StoreUnavailable("database at db.internal is away")
    response = await served.get("/crl/issuing.crl")
    assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert b"db.internal" not in response.body
    served.handler.error = KeyError("secret detail")
    response = await served.get("/crl/issuing.crl")
    assert (response.status, b"secret" in response.body) == (500, False)
    assert "secret detail" in caplog.text
    served.handler.error = None
    assert (await served.get("/crl/issuing.crl")).status == 200


async def test_too_many_at_once() -> None:
    """Requests beyond the limit get 503, connections beyond it none; both end with the load."""
    async with serving(max_requests_in_flight=1) as served:
        served.handler.may_answer.clear()
        first = asyncio.create_task(served.get("/crl/issuing.crl"))
        while not served.listener.in_flight_count:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.01)
        assert (await served.get("/crl/issuing.crl")).status == 503
        served.handler.may_answer.set()
        assert (await first).status == 200
        assert (await served.get("/crl/issuing.crl")).status == 200


async def test_a_drain_answers_what_came() -> None:
    """What is with the handler is answered; then nothing listens any more."""
    async with serving() as served:
        served.handler.may_answer.clear()
        pending = asyncio.create_task(served.get("/crl/issuing.crl"))
        while not served.listener.in_flight_count:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.01)
        draining = asyncio.create_task(served.listener.drain(5))
        await asyncio.sleep(0.05)
        served.handler.may_answer.set()
        assert (await pending).status == 200
        await draining
        assert served.listener.connections_count == 0
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection("127.0.0.1", served.port)


async def test_a_slow_client_is_cut_off() -> None:
    """One that does not take its CRL holds neither the connection nor more of it than a piece."""
    async with serving(body_timeout_seconds=0.3) as served:
        served.handler.crls["issuing", False] = StoredCRL(
            "ab", 1, None, NOW, NOW + timedelta(days=1), bytes(50_000_000)
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
        writer.write(b"GET /crl/issuing.crl HTTP/1.1\r\nHost: ca\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while served.listener.connections_count:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.05)
        assert served.listener.counters.connections_timed_out == 1
        writer.close()


async def test_requests_of_others_are_what_openssl_sends(service: Service) -> None:
    """Another client's request about the same certificate is answered alike by GET and by POST."""
    credential = await service.device("good")
    asked = (
        ocsp.OCSPRequestBuilder()
        .add_certificate(
            credential.certificate, service.ca.operator.issuing.certificate, hashes.SHA256()
        )
        .build()
        .public_bytes(Encoding.DER)
    )
    got = await service.fetch(f"/ocsp/{base64.b64encode(asked).decode()}")
    async with (
        ClientSession() as session,
        session.post(
            f"{service.url}/ocsp", data=asked, headers={"Content-Type": "application/ocsp-request"}
        ) as response,
    ):
        posted = await response.read()
    answers = [ocsp.load_der_ocsp_response(der) for der in (got, posted)]
    assert answers[0].tbs_response_bytes == answers[1].tbs_response_bytes
