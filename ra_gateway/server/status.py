"""The status listener: CRLs, OCSP and CA certificates over HTTP (RFC 5280 4.2.1.13, RFC 6960 A, RFC 5019).

    GET  /crl/ISSUER.crl, /crl/ISSUER-delta.crl    ISSUER: an issuing CA's key identifier (hex), "issuing", or "root"
    GET  /ca/ISSUER.cer, /ca/root.cer
    POST /ocsp                                     GET /ocsp/BASE64 for caches

HTTP without TLS is what RFC 5280 8 wants here: everything that is served is signed, and a client that had to
check the server's certificate first would come back for its status. So there is no TLS here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from typing import ClassVar, Final, Protocol, Unpack
from urllib.parse import unquote, urlsplit

from aiohttp import web

from ra_gateway.errors import StoreUnavailable
from ra_gateway.server.listener import (
    NOT_STORED,
    RETRY,
    SERVER,
    Listener,
    ListenerLimits,
    ListenerSettings,
    Refusal,
    is_encoded,
)

OCSP_PATH: Final = "/ocsp"
OCSP_REQUEST_TYPE: Final = "application/ocsp-request"
OCSP_RESPONSE_TYPE: Final = "application/ocsp-response"
CRL_TYPE: Final = "application/pkix-crl"
CERTIFICATE_TYPE: Final = "application/pkix-cert"

MAX_CRL_AGE: Final = timedelta(minutes=5)
"""How long a cache may keep a CRL unasked: the next revocation replaces it long before its nextUpdate."""

_CERTIFICATE_AGE: Final = timedelta(hours=1)
"""How long a cache may keep a CA certificate; those at "issuing" and "root" have successors some day."""

_ETAG_OCTETS: Final = 65_536
"""What an ETag is a hash of: the end of a document, which has the signature in it, so that large ones cost no more."""

_PIECEWISE_OCTETS: Final = 65_536
"""Larger documents are written in pieces as the client takes them, or each slow client would hold a whole CRL."""

_CRL_PATH: Final = re.compile(r"/crl/([0-9a-f]{1,128}|issuing|root)(-delta)?\.crl")
_CERTIFICATE_PATH: Final = re.compile(r"/ca/([0-9a-f]{1,128}|issuing|root)\.cer")

_LIMITS: Final[ListenerLimits] = {
    "max_body_bytes": 4096,
    "body_timeout_seconds": 60.0,
    "idle_timeout_seconds": 15.0,
}
"""Where nothing else is said."""

_ENCODED: Final = re.compile(r"(?:[A-Za-z0-9+/=]|%[0-9A-Fa-f]{2})*")


class CRL(Protocol):
    """A CRL that was published."""

    @property
    def der(self) -> bytes:
        """The CertificateList."""

    @property
    def this_update(self) -> datetime:
        """Aware UTC."""

    @property
    def next_update(self) -> datetime:
        """Aware UTC."""


class OCSPAnswer(Protocol):
    """An answer to an OCSP request."""

    @property
    def der(self) -> bytes:
        """The OCSPResponse."""

    @property
    def this_update(self) -> datetime | None:
        """Aware UTC; None for a failure."""

    @property
    def cacheable_until(self) -> datetime | None:
        """Aware UTC; None where nobody may keep it."""


class StatusHandler(Protocol):
    """Knows what is served."""

    async def crl(self, name: str, *, delta: bool) -> CRL | None:
        """Return the newest CRL of an issuing CA, None if there is none.

        Args:
            name: Its key identifier (hex), "issuing", or "root".

        Raises:
            StoreUnavailable: It cannot be told at the moment.
        """

    def certificate(self, name: str) -> bytes | None:
        """Return a CA certificate, None if there is none of that name.

        Args:
            name: An issuing CA's key identifier (hex), "issuing" or "root".
        """

    async def ocsp(self, request_der: bytes) -> OCSPAnswer | None:
        """Answer an OCSP request, whatever it is; None where there is no OCSP."""


class StatusListener(Listener):
    """Serves the status of certificates.

    Args:
        handler: Knows what is served.
        clock: Returns aware UTC.
        settings: Arguments of `Listener`; max_body_bytes is of an OCSP request.
    """

    name: ClassVar[str] = "status"
    serves: ClassVar[str] = "certificate status"
    refusals: ClassVar[Mapping[HTTPStatus, str]] = {
        HTTPStatus.BAD_REQUEST: "This is not an HTTP request for a CRL, a CA certificate or OCSP.\n",
        HTTPStatus.NOT_FOUND: "There is no CRL, CA certificate or OCSP responder here.\n",
        HTTPStatus.METHOD_NOT_ALLOWED: (
            "CRLs and CA certificates are fetched with GET, OCSP is asked with POST or GET.\n"
        ),
        HTTPStatus.REQUEST_TIMEOUT: "The body did not arrive in time.\n",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large for an OCSP request.\n",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE: (
            "The body must be application/ocsp-request, without Content-Encoding.\n"
        ),
        HTTPStatus.INTERNAL_SERVER_ERROR: "The request could not be processed.\n",
        HTTPStatus.SERVICE_UNAVAILABLE: "The status cannot be told at the moment; try again.\n",
    }

    def __init__(
        self,
        handler: StatusHandler,
        *,
        clock: Callable[[], datetime],
        **settings: Unpack[ListenerSettings],
    ) -> None:
        limits: ListenerSettings = {**_LIMITS, **settings}
        super().__init__(**limits)
        self._handler = handler
        self._clock = clock

    def serve(self, handler: StatusHandler) -> None:
        """Have what comes from now on answered by another handler."""
        self._handler = handler

    async def respond(self, request: web.BaseRequest, peer: str) -> web.Response:
        path = _path(request.raw_path)
        if path.rstrip("/") == OCSP_PATH:
            _require_method(request, "POST")
            return await self._posted(request)
        if path.startswith(f"{OCSP_PATH}/"):
            _require_method(request, "GET", "HEAD")
            return await self._asked_by_url(request, path.removeprefix(f"{OCSP_PATH}/"))
        if crl := _CRL_PATH.fullmatch(path):
            _require_method(request, "GET", "HEAD")
            return await self._crl(request, crl[1], delta=crl[2] is not None)
        if certificate := _CERTIFICATE_PATH.fullmatch(path):
            _require_method(request, "GET", "HEAD")
            return self._certificate(request, certificate[1])
        raise Refusal(HTTPStatus.NOT_FOUND)

    async def _crl(self, request: web.BaseRequest, name: str, *, delta: bool) -> web.Response:
        crl = await self.handled(self._newest_crl, name, delta)
        if crl is None:
            raise Refusal(HTTPStatus.NOT_FOUND)
        now = self._clock()
        until = min(crl.next_update, now + MAX_CRL_AGE)
        return _document(request, crl.der, CRL_TYPE, now, until, crl.this_update)

    async def _newest_crl(self, name: str, delta: bool) -> CRL | None:
        try:
            return await self._handler.crl(name, delta=delta)
        except StoreUnavailable:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, **RETRY) from None

    def _certificate(self, request: web.BaseRequest, name: str) -> web.Response:
        der = self._handler.certificate(name)
        if der is None:
            raise Refusal(HTTPStatus.NOT_FOUND)
        now = self._clock()
        self.counters.requests += 1
        return _document(request, der, CERTIFICATE_TYPE, now, now + _CERTIFICATE_AGE)

    async def _posted(self, request: web.BaseRequest) -> web.Response:
        content_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if content_type != OCSP_REQUEST_TYPE or is_encoded(request.headers):
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        answer = await self._ocsp(await self.body(request))
        return web.Response(body=answer.der, content_type=OCSP_RESPONSE_TYPE, headers=NOT_STORED)

    async def _asked_by_url(self, request: web.BaseRequest, encoded: str) -> web.Response:
        answer = await self._ocsp(_decoded(encoded))
        if answer.cacheable_until is None:
            return web.Response(
                body=answer.der, content_type=OCSP_RESPONSE_TYPE, headers=NOT_STORED
            )
        return _document(
            request,
            answer.der,
            OCSP_RESPONSE_TYPE,
            self._clock(),
            answer.cacheable_until,
            answer.this_update,
            by_date=False,  # two answers of one second may differ: ask for the same octets, or get them all
        )

    async def _ocsp(self, request_der: bytes) -> OCSPAnswer:
        if not request_der:
            raise Refusal(HTTPStatus.BAD_REQUEST)
        answer = await self.handled(self._handler.ocsp, request_der)
        if answer is None:
            raise Refusal(HTTPStatus.NOT_FOUND)
        return answer


def _path(target: str) -> str:
    """Return the path of a request target, percent signs and all: a decoded slash may be base64."""
    if target.startswith("/"):
        return target.partition("?")[0]
    try:
        return urlsplit(target).path
    except ValueError:
        return ""


def _require_method(request: web.BaseRequest, *methods: str) -> None:
    if request.method not in methods:
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, Allow=", ".join(methods))


def _decoded(encoded: str) -> bytes:
    """Return the OCSP request in a URL (RFC 6960 A.1): base64, with or without percent signs."""
    # Thousands of single percent signs would take their time
    if _ENCODED.fullmatch(encoded) is None:
        raise Refusal(HTTPStatus.BAD_REQUEST)
    try:
        return base64.b64decode(unquote(encoded), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(HTTPStatus.BAD_REQUEST) from None


def _document(
    request: web.BaseRequest,
    der: bytes,
    content_type: str,
    now: datetime,
    until: datetime,
    last_modified: datetime | None = None,
    *,
    by_date: bool = True,
) -> web.Response:
    """Return an answer that may be kept (RFC 5019 6.2), or 304 if the client has it.

    Args:
        by_date: Whether a client with a document of that date (If-Modified-Since) has this one.
    """
    age_seconds = max(0, int((until - now).total_seconds()))
    tag = hashlib.sha256(der[-_ETAG_OCTETS:]).hexdigest()[:32]
    headers = {
        "ETag": f'"{tag}"',
        "Expires": _http_date(now + timedelta(seconds=age_seconds)),
        "Cache-Control": f"max-age={age_seconds}, public, no-transform, must-revalidate",
        **SERVER,
    }
    if last_modified is not None:
        headers["Last-Modified"] = _http_date(last_modified)
    if _has_it(request, tag, last_modified if by_date else None, now):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    body = der if len(der) <= _PIECEWISE_OCTETS else io.BytesIO(der)
    return web.Response(body=body, content_type=content_type, headers=headers)


def _has_it(
    request: web.BaseRequest, tag: str, last_modified: datetime | None, now: datetime
) -> bool:
    tags = request.if_none_match
    if tags is not None:  # RFC 9110 13.1.3: then the date does not count
        return any(item.value in (tag, "*") for item in tags)
    try:
        since = request.if_modified_since
    except OverflowError:  # a year of twenty digits
        return False
    if since is None or last_modified is None or since > now:  # RFC 9110 13.1.3: not valid, ignored
        return False
    return last_modified <= since


def _http_date(moment: datetime) -> str:
    return format_datetime(moment.replace(microsecond=0), usegmt=True)
