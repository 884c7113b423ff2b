"""CAs with REST APIs, written from their public documentation: step-ca, Vault's PKI engine, one for bare keys.

They check what the real ones check (tokens, signatures of requests, names) and issue from the operator's CA. A
test may change any answer with `change`, or answer in their place with `instead`.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.keys import pem
from tests.support.credentials import cmp_certificate
from tests.support.pki import OperatorPKI, certificate_der, write_certificates

Document = dict[str, Any]


class APIError(Exception):
    """What an API answers instead: a status and a text."""

    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text
        super().__init__(text)


class FakeAPI:
    """A server that reads JSON objects and answers with JSON objects.

    Args:
        operator: Whose issuing CA it has.
        clock: Aware UTC.
    """

    def __init__(self, operator: OperatorPKI, clock: Callable[[], datetime]) -> None:
        self.operator, self.clock = operator, clock
        self.server = TestServer(self._application(), host="127.0.0.1")
        self.asked: list[tuple[str, Document]] = []
        self.issued: list[Certificate] = []
        self.revoked: dict[int, int] = {}
        self.change: Callable[[Document], Document] = lambda document: document
        self.instead: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end."""
        return str(self.server.make_url("")).removesuffix("/")

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_route("*", "/{tail:.*}", self._serve)
        return application

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        document = await request.json()
        self.asked.append((request.path, document))
        if self.instead is not None:
            return await self.instead(request)
        try:
            if request.method != "POST" or request.content_type != "application/json":
                raise APIError(405, "POST JSON")
            status, answer = self.answer(request, document)
        except APIError as error:
            return web.json_response(self.error(error), status=error.status)
        return web.json_response(self.change(answer), status=status)

    def answer(self, request: web.Request, document: Document) -> tuple[int, Document]:
        """Carry out a request; return status and answer."""
        raise NotImplementedError

    def error(self, error: APIError) -> Document:
        """How the API words an error."""
        raise NotImplementedError

    def issue(self, subject: x509.Name, key: Any, san: list[str]) -> Certificate:
        """Issue from the operator's CA."""
        issued = cmp_certificate(
            self.operator.issuing.sign(subject, key, san=san, key_usage=["digitalSignature"])
        )
        self.issued.append(issued)
        return issued

    def revoke(self, serial_number: int, reason: int) -> None:
        """Note that a certificate was revoked."""
        self.revoked[serial_number] = reason

    @property
    def chain(self) -> list[str]:
        """The issuing CA, PEM."""
        return [pem(certificate_der(self.operator.issuing.certificate))]


API = TypeVar("API", bound=FakeAPI)


@asynccontextmanager
async def serving(api: API, tls: ssl.SSLContext | None = None) -> AsyncIterator[API]:
    """Serve an API on a free port."""
    if tls is None:
        await api.server.start_server()
    else:
        api.server = TestServer(api.server.app, host="127.0.0.1", scheme="https")
        await api.server.start_server(ssl=tls)
    try:
        yield api
    finally:
        await api.server.close()


def read_csr(text: Any) -> x509.CertificateSigningRequest:
    """Read a PEM PKCS#10 whose signature verifies."""
    try:
        csr = x509.load_pem_x509_csr(text.encode())
    except (ValueError, AttributeError):
        raise APIError(400, "missing csr") from None
    if not csr.is_signature_valid:
        raise APIError(400, "invalid csr")
    return csr


def sans_of(csr: x509.CertificateSigningRequest) -> list[str]:
    """The names in subjectAltName, as "dns:..." and "ip:..."."""
    try:
        value = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        *(f"dns:{name}" for name in value.get_values_for_type(x509.DNSName)),
        *(f"ip:{name}" for name in value.get_values_for_type(x509.IPAddress)),
    ]


def common_name(csr: x509.CertificateSigningRequest) -> str:
    """The common name in a request, "" for none."""
    names = csr.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


# --- step-ca --------------------------------------------------------------------------------------------------


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class FakeStepCA(FakeAPI):
    """step-ca with one JWK provisioner, whose template takes the subject from the request.

    Args:
        key: The provisioner's public key.
    """

    provisioner = "ra@example.net"

    def __init__(
        self,
        operator: OperatorPKI,
        clock: Callable[[], datetime],
        key: ec.EllipticCurvePublicKey,
    ) -> None:
        super().__init__(operator, clock)
        self.key = key
        self.tokens: list[Document] = []
        self.used: set[str] = set()

    @property
    def key_id(self) -> str:
        """The thumbprint of the provisioner's key (RFC 7638)."""
        point = self.key.public_numbers()
        x, y = (
            base64.urlsafe_b64encode(number.to_bytes(32, "big")).decode().rstrip("=")
            for number in (point.x, point.y)
        )
        canonical = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
        digest = hashlib.sha256(canonical.encode()).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def answer(self, request: web.Request, document: Document) -> tuple[int, Document]:
        """/1.0/sign and /1.0/revoke."""
        if request.path == "/1.0/sign":
            csr = read_csr(document.get("csr"))
            claims = self._authorize(document, f"{self.url}/1.0/sign")
            self._check_names(csr, claims)
            certificate = self.issue(csr.subject, csr.public_key(), sans_of(csr))
            leaf = pem(certificate.der)
            return 201, {"crt": leaf, "ca": self.chain[0], "certChain": [leaf, *self.chain]}
        if request.path == "/1.0/revoke":
            if not document["passive"]:
                raise APIError(501, "non-passive revocation not implemented")
            claims = self._authorize(document, f"{self.url}/1.0/revoke")
            serial_number = int(document["serial"])
            if claims["sub"] != document["serial"]:
                raise APIError(401, "The request lacked necessary authorization to be completed.")
            if serial_number in self.revoked:
                raise APIError(
                    400, f"certificate with serial number '{serial_number}' is already revoked"
                )
            self.revoke(serial_number, document["reasonCode"])
            return 200, {"status": "ok"}
        raise APIError(404, "404 page not found")

    def error(self, error: APIError) -> Document:
        """Status and message."""
        return {"status": error.status, "message": error.text}

    def _authorize(self, document: Document, audience: str) -> Document:
        refusal = APIError(401, "The request lacked necessary authorization to be completed.")
        try:
            head, body, signature = document["ott"].split(".")
            header, claims = json.loads(_unpadded(head)), json.loads(_unpadded(body))
            raw = _unpadded(signature)
            assert len(raw) == 64
            r, s = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))
            self.key.verify(
                encode_dss_signature(r, s), f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256())
            )
        except (KeyError, ValueError, AssertionError, InvalidSignature):
            raise refusal from None
        now = self.clock().timestamp()
        in_order = (
            header == {"alg": "ES256", "kid": self.key_id, "typ": "JWT"}
            and claims["iss"] == self.provisioner
            and claims["aud"] == audience
            and claims["nbf"] - 60 <= now <= claims["exp"] + 60
            and claims["exp"] - claims["iat"] <= 300
            and claims["sub"]
        )
        if not in_order or claims["jti"] in self.used:
            raise refusal
        self.used.add(claims["jti"])
        self.tokens.append(claims)
        return dict(claims)

    @staticmethod
    def _check_names(csr: x509.CertificateSigningRequest, claims: Document) -> None:
        allowed = claims.get("sans") or [claims["sub"]]
        if common_name(csr) not in ("", claims["sub"], *allowed):
            raise APIError(403, "certificate request does not contain the valid common name")
        for kind in ("dns", "ip"):
            names = {name.partition(":")[2] for name in sans_of(csr) if name.startswith(kind)}
            if names and names != {name for name in allowed if _is_address(name) == (kind == "ip")}:
                raise APIError(403, f"certificate request does not contain the valid {kind} names")


# --- Vault ----------------------------------------------------------------------------------------------------


class FakeVault(FakeAPI):
    """Vault with a PKI engine at `pki`, and a role `ran` for names below example.net."""

    token = "hvs.operator"
    namespace = ""

    def answer(self, request: web.Request, document: Document) -> tuple[int, Document]:
        """sign, sign-verbatim and revoke."""
        if (
            request.headers.get("X-Vault-Token") != self.token
            or request.headers.get("X-Vault-Namespace", "") != self.namespace
        ):
            raise APIError(403, "permission denied")
        match request.path.split("/")[1:]:
            case ["v1", "pki", "sign", role]:
                return 200, self._sign(role, document, verbatim=False)
            case ["v1", "pki", "sign-verbatim", role]:
                return 200, self._sign(role, document, verbatim=True)
            case ["v1", "pki", "revoke"]:
                return 200, self._revoke(document)
        raise APIError(404, f"no handler for route {request.path!r}")

    def error(self, error: APIError) -> Document:
        """A list of texts."""
        return {"errors": [error.text]}

    def _sign(self, role: str, document: Document, *, verbatim: bool) -> Document:
        if role != "ran":
            raise APIError(400, f"unknown role: {role}")
        csr = read_csr(document.get("csr"))
        subject = csr.subject
        if not verbatim:
            name = common_name(csr)
            if not name.endswith(".example.net"):
                raise APIError(400, f"common name {name} not allowed by this role")
            subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self.issue(subject, csr.public_key(), sans_of(csr))
        data = {
            "certificate": pem(certificate.der),
            "issuing_ca": self.chain[0],
            "ca_chain": self.chain,
            "serial_number": _colons(certificate.serial_number),
        }
        return {"request_id": "1", "lease_id": "", "data": data}

    def _revoke(self, document: Document) -> Document:
        serial_number = int(document["serial_number"].replace(":", ""), 16)
        known = {_colons(item.serial_number) for item in self.issued}
        if document["serial_number"] not in known:
            raise APIError(400, f"certificate with serial {document['serial_number']} not found.")
        self.revoke(serial_number, 0)
        return {"data": {"revocation_time": int(self.clock().timestamp()), "state": "revoked"}}


def _colons(serial_number: int) -> str:
    digits = f"{serial_number:x}"
    return bytes.fromhex(digits.zfill(len(digits) + len(digits) % 2)).hex(":")


# --- bare keys ------------------------------------------------------------------------------------------------


class FakeKeyAPI(FakeAPI):
    """An API that certifies a public key and names, at /certify, and revokes at /revoke."""

    token = "key-api-token"

    def answer(self, request: web.Request, document: Document) -> tuple[int, Document]:
        """Certify or revoke."""
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            raise APIError(401, "who are you?")
        if request.path == "/revoke":
            self.revoke(int(document["serialNumber"], 16), document["reason"])
            return 200, {}
        if request.path != "/certify":
            raise APIError(404, "nothing here")
        if "csr" in document:
            read_csr(document["csr"])
        key = load_der_public_key(base64.b64decode(document["publicKey"]))
        if "forbidden" in document["subject"]:
            raise APIError(422, "subject is not\nallowed")
        certificate = self.issue(
            x509.Name.from_rfc4514_string(document["subject"]), key, document["subjectAltNames"]
        )
        der = base64.b64encode(certificate.der).decode()
        return 201, {"certificate": der, "chain": self.chain}

    def error(self, error: APIError) -> Document:
        """One text."""
        return {"error": error.text}


def fake_api(
    kind: str,
    operator: OperatorPKI,
    clock: Callable[[], datetime],
    key: ec.EllipticCurvePrivateKey,
) -> Any:
    """Make the look-alike of a kind of upstream; `key` is step-ca's provisioner's."""
    if kind == "step_ca":
        return FakeStepCA(operator, clock, key.public_key())
    return (FakeVault if kind == "vault" else FakeKeyAPI)(operator, clock)


def server_tls(operator: OperatorPKI, directory: Path) -> ssl.SSLContext:
    """What a server at 127.0.0.1 speaks TLS with, under the operator's root."""
    server = operator.issuing.issue(
        "127.0.0.1", san=["ip:127.0.0.1"], eku=["1.3.6.1.5.5.7.3.1"], key_usage=["digitalSignature"]
    )
    _, key_path = server.write(directory, "tls")
    certificate_path = write_certificates(
        directory / "tls-chain.pem", server.certificate, operator.issuing.certificate
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_path, key_path)
    return context
