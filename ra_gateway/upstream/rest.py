"""CAs with a JSON API: what all of them share, and a signer for one that takes bare public keys.

The HTTP client treats the CA's side as `upstream.http` does: bounded answers, one deadline, no redirects, no
cookies, nothing from the environment, nothing sent twice.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import rfc4514
from ra_gateway.cmp.pem import PEMRefused, pem_blocks
from ra_gateway.errors import (
    CMPError,
    PKIFailureInfo,
    RequestRefused,
    ServiceFailure,
    UpstreamBroken,
    UpstreamUnavailable,
)
from ra_gateway.files import open_to_read
from ra_gateway.keys import pem
from ra_gateway.upstream.connections import Connections, Response
from ra_gateway.upstream.http import _BUSY, _EXCERPT_BYTES, HttpClient, had_connection
from ra_gateway.upstream.kinds import RestUpstream
from ra_gateway.upstream.signing import SignedCertificate, SigningRequest, not_offered

_TEXT_CHARACTERS: Final = 200
"""How much of an API's own words is kept; they are one sentence, where they are words at all."""

_PROBE_SECONDS: Final = 5.0
"""For an answer to a probe."""

_TOKEN_BYTES: Final = 16_384
"""Longest token: what servers take as one header line (8 to 16 KiB)."""

MAX_VALUES: Final = 4096
"""In an answer, together with what is between them; the answers of known APIs have some 50."""

MAX_DEPTH: Final = 16
"""Of an answer; those of known APIs have 3."""

_MAX_DIGITS: Final = 32

MAX_CERTIFICATES: Final = 16
"""That come with one answer: the issued one and its chain."""

REFUSALS: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
"""What APIs say of a request that they will not carry out as it is."""


# --- HTTP and JSON --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer below 500.

    Args:
        document: The JSON object in it; empty where an answer of 400 and above has none.
    """

    status: int
    document: Mapping[str, Any]

    @property
    def succeeded(self) -> bool:
        """Whether the API did what it was asked to do."""
        return self.status < 300

    def text(self, key: str) -> str:
        """Return a text of the document, cleaned of what does not belong into a line of a log; "" if absent."""
        return readable(self.document.get(key))


class RestClient(HttpClient):
    """Posts JSON objects.

    Args:
        url: What the paths are appended to, after a slash; https, but for tests and CAs on this machine.
        connections: May be shared with other URLs of the same CA; by default its own.
    """

    def __init__(self, url: str, connections: Connections | None = None) -> None:
        super().__init__(url.removesuffix("/"), connections)

    def target(self, path: str) -> str:
        """Return the URL that a path stands for."""
        return str(self._target(path))

    async def look(self) -> None:
        """Check that somebody is at the URL.

        Raises:
            ServiceFailure: Nobody is.
        """
        try:
            await self.probe(deadline_seconds=_PROBE_SECONDS)
        except ServiceFailure as error:
            if not had_connection(error):
                raise

    async def post(
        self,
        path: str,
        document: Mapping[str, object],
        *,
        headers: Mapping[str, str] | None = None,
        deadline_seconds: float,
    ) -> Answer:
        """Post a JSON object and return the answer.

        Args:
            path: Appended to the URL; "" for none.
            headers: Besides those that every request has.
            deadline_seconds: Total time allowed, with waiting for a connection.

        Raises:
            UpstreamUnavailable: No answer, or HTTP 429, 502, 503 or 504.
            UpstreamBroken: Any other 3xx or 5xx, or an answer that is not JSON.
        """
        body = json.dumps(document).encode()
        own = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Content-Length": str(len(body)),
        }
        head = self._head("POST", path, {**own, **(headers or {})})
        limit = self._connections.max_response_bytes
        answer = Response(lambda _: limit)
        return _answer(await self._ask(head + b"\r\n" + body, answer, deadline_seconds), limit)


def _answer(response: Response, limit: int) -> Answer:
    content = bytes(response.content)
    status = response.status
    said = f"HTTP {status}: {readable(content[:_EXCERPT_BYTES].decode('utf-8', 'replace'))!r}"
    if status in _BUSY:
        raise UpstreamUnavailable(said, delivered=True)
    if not (200 <= status < 300 or 400 <= status < 500):
        raise UpstreamBroken(said, rule="R91")
    encoding = response.header(b"content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UpstreamBroken(f"HTTP {status} with Content-Encoding {encoding[:20]!r}")
    if len(content) > limit:
        raise UpstreamBroken(f"HTTP {status} with more than {limit} bytes")
    try:
        document = json_object(content) if content else {}
    except ValueError as error:
        if status < 300:
            raise UpstreamBroken(
                f"HTTP {status} without a JSON object of use: {error}", rule="R91"
            ) from None
        document = {}
    return Answer(status, document)


def json_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object in what somebody else sent.

    Raises:
        ValueError: It is none, or has too many values, one inside too many others, a number of too many digits,
            one that JSON does not have (NaN), or a name twice in one object. None of it is in the text.
    """
    # Before it is decoded; those in texts count as well, of which certificates have none.
    if content.count(b",") + content.count(b"[") + content.count(b"{") > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    try:
        document = json.loads(
            content.decode("utf-8"),
            parse_int=_integer,
            parse_float=_real,
            parse_constant=_constant,
            object_pairs_hook=_members,
        )
    except _JSONRefused:
        raise
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(document, dict):
        raise ValueError("not an object")
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for value in level
            for item in (
                value.values()
                if isinstance(value, dict)
                else value
                if isinstance(value, list)
                else ()
            )
        ]
    if level:
        raise ValueError(f"values inside more than {MAX_DEPTH} others")
    return document


class _JSONRefused(ValueError):
    pass


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise _JSONRefused(f"a number of more than {_MAX_DIGITS} digits")
    return int(text)


def _real(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _JSONRefused("a number that is too large")
    return number


def _constant(text: str) -> None:
    raise _JSONRefused(f"{text}, which is no JSON")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _JSONRefused("a name twice in one object")
    return members


def readable(text: object) -> str:
    """Return the beginning of a text as one printable line; "" of anything else."""
    if not isinstance(text, str):
        return ""
    line = " ".join(text[: 4 * _TEXT_CHARACTERS].split())
    return "".join(c for c in line if c.isprintable())[:_TEXT_CHARACTERS]


def refused(said: str, fail_info: PKIFailureInfo = PKIFailureInfo.badRequest) -> RequestRefused:
    """Return the rejection for a device of a request that the CA refused.

    Args:
        said: The CA's own words, cleaned; they go along, as a CMP CA's statusString does.
    """
    phrase = "The certification authority refused the request"
    return RequestRefused(
        f"the CA refused: {said!r}",
        fail_info=fail_info,
        phrase=f"{phrase}: {said}" if said else f"{phrase}.",
    )


def broken(answer: Answer, said: str) -> UpstreamBroken:
    """Return the error for an answer by which the CA refuses the RA rather than the device's request."""
    return UpstreamBroken(f"HTTP {answer.status}: {said!r}", rule="R91")


async def read_token(path: Path) -> str:
    """Return a secret of the CA's API from a file that somebody else may renew: it is read for each request.

    Raises:
        UpstreamUnavailable: There is none in the file now; nothing was sent.
    """
    return await asyncio.to_thread(_token, path)


def _token(path: Path) -> str:
    try:
        with open_to_read(path) as file:
            token = file.read(_TOKEN_BYTES + 1).decode("ascii").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise UpstreamUnavailable(
            f"the token file {path} cannot be used: {why}", delivered=False
        ) from error
    if not token or len(token) > _TOKEN_BYTES or not token.isprintable():
        raise UpstreamUnavailable(f"the token file {path} holds no token", delivered=False)
    return token


# --- certificates in JSON -------------------------------------------------------------------------------------


def pem_csr(csr_der: bytes) -> str:
    """Return a PKCS#10 as PEM."""
    return pem(csr_der, "CERTIFICATE REQUEST")


def certificates_in(value: object, what: str) -> tuple[bytes, ...]:
    """Return the DER of the certificates in a JSON value.

    Args:
        value: PEM, base64 of DER, a list of such, or None for none.
        what: The value's name, for the text.

    Raises:
        UpstreamBroken: Anything else.
    """
    if value is None or value == "":
        return ()
    items = value if isinstance(value, list) else [value]
    found: list[bytes] = []
    try:
        for item in items:
            if item is None or item == "":
                continue
            found += _certificates_of(item)
            if len(found) > MAX_CERTIFICATES:
                raise UpstreamBroken(
                    f"{what} in the CA's answer has more than {MAX_CERTIFICATES} certificates",
                    rule="R87",
                )
        for der in found:
            Certificate.from_der(der)
    except UpstreamBroken:
        raise
    except (TypeError, ValueError, binascii.Error, CMPError) as error:
        raise UpstreamBroken(f"{what} in the CA's answer is no certificate", rule="R87") from error
    return tuple(found)


def _certificates_of(item: object) -> tuple[bytes, ...]:
    if not isinstance(item, str):
        raise TypeError
    if "-----BEGIN" not in item:
        return (base64.b64decode(item, validate=True),)
    if not (found := pem_blocks(item.encode(), "CERTIFICATE", MAX_CERTIFICATES)):
        raise PEMRefused("no certificate")
    return found


def signed_certificate(
    document: Mapping[str, object], what: str, *chains: str
) -> SignedCertificate:
    """Return what a CA issued, out of its JSON.

    Args:
        what: Names what was issued, as of `certificates_in`; what follows the first certificate counts as chain.
        chains: Name the chain, the same, in order of preference; the issued certificate may be among it.

    Raises:
        UpstreamBroken: No certificate, or no readable one.
    """
    found = certificates_in(document.get(what), what)
    if not found:
        raise UpstreamBroken(f"{what} is missing in the CA's answer", rule="R87")
    chain: object = None
    for name in chains:
        chain = chain or document.get(name)
    others = dict.fromkeys((*found[1:], *certificates_in(chain, "the chain")))
    return SignedCertificate(found[0], tuple(der for der in others if der != found[0]))


# --- an API for bare keys -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RestSigner:
    """A `CertificateSigner` for an API that certifies a public key and names.

    Args:
        settings: Its table, with the names of the JSON members.
        client: Its URL is where requests for certificates are posted.
        revoke_client: Its URL is where revocations are posted; None where that is not offered.
    """

    settings: RestUpstream
    client: RestClient
    revoke_client: RestClient | None = None

    async def sign(self, request: SigningRequest, *, deadline_seconds: float) -> SignedCertificate:
        """Have a public key certified.

        Args:
            deadline_seconds: Total time allowed.

        Raises:
            RequestRefused: HTTP 400 or 422.
            UpstreamUnavailable, UpstreamBroken: As `RestClient.post`; broken is every other status, too.
        """
        names = self.settings
        given: dict[str, object] = {
            names.public_key_field: base64.b64encode(request.public_key_der).decode(),
            names.subject_field: rfc4514(request.subject_der),
            names.san_field: list(request.san),
            names.request_id_field: request.operation_id.hex(),
        }
        if request.csr_der is not None:
            given[names.csr_field] = pem_csr(request.csr_der)
        answer = await self._post(self.client, given, deadline_seconds)
        return signed_certificate(answer.document, names.certificate_field, names.chain_field)

    async def revoke(
        self, issuer_der: bytes, serial_number: int, reason: int, *, deadline_seconds: float
    ) -> None:
        """Have a certificate revoked.

        Args:
            issuer_der: Name of its issuer.
            reason: CRLReason.
            deadline_seconds: Total time allowed.

        Raises:
            RequestRefused: HTTP 400 or 422, or the API has no revocation.
            UpstreamUnavailable, UpstreamBroken: As `sign`.
        """
        if self.revoke_client is None:
            raise not_offered("The certification authority revokes nothing on request.")
        given = {
            "issuer": rfc4514(issuer_der),
            "serialNumber": f"{serial_number:x}",
            "reason": reason,
        }
        await self._post(self.revoke_client, given, deadline_seconds)

    async def look(self) -> None:
        """Check that requests can be sent there now (`Looked`)."""
        await self.client.look()

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()
        if self.revoke_client is not None:
            await self.revoke_client.close()

    async def _post(
        self, client: RestClient, given: Mapping[str, object], deadline_seconds: float
    ) -> Answer:
        headers = {}
        if self.settings.token_path is not None:
            headers["Authorization"] = f"Bearer {await read_token(self.settings.token_path)}"
        document = {name: value for name, value in given.items() if name}
        answer = await client.post("", document, headers=headers, deadline_seconds=deadline_seconds)
        if answer.succeeded:
            return answer
        said = answer.text(self.settings.error_field)
        raise refused(said) if answer.status in REFUSALS else broken(answer, said)
