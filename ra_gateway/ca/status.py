"""What the CA publishes: CRLs, OCSP answers, and its own certificates.

No HTTP here; the status listener asks for these by the names in its URLs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from ra_gateway.ca.crl import CRLIssuer, CRLPublisher
from ra_gateway.ca.ocsp import OCSPAnswer, OCSPResponder
from ra_gateway.ca.records import StoredCRL
from ra_gateway.cmp.certificates import Certificate

ACTIVE_NAME: Final = "issuing"
"""Stands for the active issuing CA, and after a change for its successor; the key identifier stays."""

ROOT_NAME: Final = "root"


class CAStatus:
    """Finds CRLs, OCSP answers and CA certificates.

    Args:
        root: Certificate at the name "root".
        issuers: All issuing CAs, the active one first.
        responder: None where there is no OCSP.
        root_crl: Returns the root's CRL; waits for the disk.
    """

    def __init__(
        self,
        root: Certificate,
        issuers: Sequence[CRLIssuer],
        publisher: CRLPublisher,
        responder: OCSPResponder | None,
        root_crl: Callable[[], StoredCRL | None] = lambda: None,
    ) -> None:
        self._active_id = issuers[0].id
        self._certificates = {issuer.id: issuer.certificate for issuer in issuers}
        self._certificates |= {ACTIVE_NAME: issuers[0].certificate, ROOT_NAME: root}
        self._publisher = publisher
        self._responder = responder
        self._root_crl = root_crl

    async def crl(self, name: str, *, delta: bool) -> StoredCRL | None:
        """Return the newest CRL of an issuing CA, or of the root, None if there is none.

        Args:
            name: Its key identifier (hex), or "issuing", or "root".

        Raises:
            StoreUnavailable: The ledger does not answer, and no CRL was read before.
        """
        if name == ROOT_NAME:
            return None if delta else await asyncio.to_thread(self._root_crl)
        issuer_id = self._active_id if name == ACTIVE_NAME else name
        return await self._publisher.current(issuer_id, delta=delta)

    def certificate(self, name: str) -> bytes | None:
        """Return the DER of a CA certificate, None for an unknown name.

        Args:
            name: An issuing CA's key identifier (hex), "issuing" or "root".
        """
        found = self._certificates.get(name)
        return None if found is None else found.der

    async def ocsp(self, request_der: bytes) -> OCSPAnswer | None:
        """Answer an OCSP request; None where there is no OCSP."""
        return None if self._responder is None else await self._responder.answer(request_der)
