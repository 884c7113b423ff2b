"""The CA's CRLs in an LDAP directory, the primary way to them by TS 33.310 6.1a and 7.1.

Each issuing CA has an entry of its own, with its newest CRL, its delta CRL and its certificate (RFC 4523), and so has
the root, if it has a CRL. What is there is replaced, whoever wrote it: processes that write the same entry write the
same, the newest of the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from ra_gateway import ldap
from ra_gateway.ca.crl import CRLIssuer, CRLPublisher
from ra_gateway.ca.records import StoredCRL
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.errors import StoreUnavailable, printable

_LONGEST_PAUSE_SECONDS: Final = 300.0
"""Between two attempts at a directory that does not answer; the first one follows after `check_seconds`."""

_BELIEVED_SECONDS: Final = 3600.0
"""After so long it is written again: somebody may have restored the directory, or removed the entry."""

_TIMEOUT_SECONDS: Final = 30.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.ca")


class CRLDirectory:
    """Keeps the entries of a directory as new as the CRLs.

    Args:
        issuers: All issuing CAs with CRLs, retired ones too.
        publisher: Makes the CRLs.
        entry: DN of an issuing CA's entry; `{issuer}` stands for its key identifier (hexadecimal).
        deltas: Whether there are delta CRLs.
        check_seconds: From one look for new CRLs to the next.
        root: The root's certificate, which has a SubjectKeyIdentifier; None where its CRL is not written.
        root_crl: Returns that CRL, None if there is none; waits for the disk.
    """

    def __init__(
        self,
        issuers: Sequence[CRLIssuer],
        publisher: CRLPublisher,
        directory: ldap.Directory,
        entry: str,
        *,
        deltas: bool = False,
        check_seconds: float = 5.0,
        root: Certificate | None = None,
        root_crl: Callable[[], StoredCRL | None] = lambda: None,
    ) -> None:
        self._issuers = tuple(issuers)
        self._publisher = publisher
        self._directory = directory
        self._entry = entry
        self._kinds = (False, True) if deltas else (False,)
        self._check_seconds = check_seconds
        self._root, self._root_crl = root, root_crl
        self._written: dict[str, tuple[list[int], float]] = {}
        """Numbers of the CRLs that an issuing CA's entry has from here, and until when (of the loop's clock) that is
        believed.
        """

    async def run(self) -> None:
        """Write what is new until cancelled; failures are told in the log, and tried again."""
        pause = self._check_seconds
        while True:
            pause = self._check_seconds if await self.refresh() else min(2 * pause, _longest(pause))
            await asyncio.sleep(pause)

    async def refresh(self) -> bool:
        """Write what is new, and tell whether the directory has it all now."""
        outcomes = [await self._refresh(issuer) for issuer in self._issuers]
        if self._root is not None:
            outcomes.append(await self._refresh_root(self._root))
        return all(outcomes)

    async def _refresh_root(self, root: Certificate) -> bool:
        crl = await asyncio.to_thread(self._root_crl)
        if crl is None:
            return True
        # What a root lists are CAs; who looks for those looks for either.
        values = dict.fromkeys(("certificateRevocationList", "authorityRevocationList"), crl.der)
        identifier = (root.subject_key_identifier or b"").hex()
        return await self._write(identifier, root, values, [crl.number])

    async def _refresh(self, issuer: CRLIssuer) -> bool:
        try:
            crls = [await self._publisher.current(issuer.id, delta=delta) for delta in self._kinds]
        except StoreUnavailable as error:
            dn = self._dn(issuer.id)
            log.warning("crl.directory", outcome="delayed", dn=dn, detail=error.detail)
            return False
        values = {}
        for crl in crls:
            if crl is not None:
                name = (
                    "certificateRevocationList"
                    if crl.base_number is None
                    else "deltaRevocationList"
                )
                values[name] = crl.der
        numbers = [crl.number for crl in crls if crl is not None]
        return await self._write(issuer.id, issuer.certificate, values, numbers)

    def _dn(self, identifier: str) -> str:
        return self._entry.replace("{issuer}", identifier)

    async def _write(
        self,
        identifier: str,
        certificate: Certificate,
        crls: Mapping[str, bytes],
        numbers: list[int],
    ) -> bool:
        dn, moment = self._dn(identifier), asyncio.get_running_loop().time()
        written, until = self._written.get(identifier, ([], 0.0))
        if not numbers or (numbers == written and moment < until):
            return True
        values = {"cACertificate": certificate.der, **crls}
        try:
            await asyncio.to_thread(self._directory.write, dn, values, _TIMEOUT_SECONDS)
        except ldap.LDAPFailure as error:
            log.error(
                "crl.directory",
                outcome="failed",
                dn=dn,
                detail=printable(str(error), 300),
                todo="see [ca.ldap]; until then peers that look there find the old CRL, or none",
            )
            return False
        self._written[identifier] = (numbers, moment + _BELIEVED_SECONDS)
        log.info("crl.directory", outcome="written", dn=dn, numbers=numbers)
        return True


def _longest(pause: float) -> float:
    return max(_LONGEST_PAUSE_SECONDS, pause)
