"""Where a trust domain gets CRLs and OCSP answers from, and what each source has given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path as FilePath

from ra_gateway.cmp.crl import CRL, ReceivedCRL
from ra_gateway.cmp.names import CanonicalName
from ra_gateway.revocation.fetching import FileState


class SourceKind(StrEnum):
    """What a source gives."""

    crl = "CRL"
    ocsp = "OCSP"


@dataclass(frozen=True, slots=True)
class SourceState:
    """What one source has given: a value for each CRL, one if it gave none, one for each OCSP responder.

    Args:
        issuer: Of the CRL, "" without one.
        this_update, next_update: Of the CRL, or of the newest answer.
        entries: In the CRL; or answers since the start.
        fresh: Whether the CRL, or the newest answer, tells at the moment asked about that a certificate is not
            revoked.
        fetched_at: When it was last got, be it unchanged.
        last_error: Why the last attempt failed; "" when it did not.
        failing_since: First of the attempts that failed without one that succeeded after it.
        parked: Whether it gave CRLs of CAs that are not known yet, but may come along with a message.
    """

    domain: str
    source: str
    issuer: str = ""
    number: int | None = None
    this_update: datetime | None = None
    next_update: datetime | None = None
    entries: int = 0
    fresh: bool = False
    fetched_at: datetime | None = None
    last_error: str = ""
    failing_since: datetime | None = None
    kind: SourceKind = SourceKind.crl
    parked: bool = False


@dataclass(slots=True)
class Source:
    """A file or a URL; `due` and `full_due` are monotonic seconds.

    `restored` tells that what was saved before a restart has been looked at, `saved_digest` what is saved now.
    `parked` are CRLs of CAs that are not known yet, `awaited` the names of such CAs whose CRLs were not kept.
    """

    where: FilePath | str
    due: float = 0.0
    full_due: float = 0.0
    failures: int = 0
    digest: bytes = b""
    file_state: FileState | None = None
    restored: bool = False
    saved_digest: bytes = b""
    crls: tuple[CRL, ...] = ()
    parked: tuple[ReceivedCRL, ...] = ()
    awaited: tuple[CanonicalName, ...] = ()
    fetched_at: datetime | None = None
    last_error: str = ""
    failing_since: datetime | None = None

    def again(self, crls: tuple[CRL, ...]) -> Source:
        """Return it as another configuration begins with it: due at once, with the CRLs that hold there."""
        return replace(
            self,
            due=0.0,
            full_due=0.0,
            failures=0,
            digest=self.digest if crls == self.crls else b"",
            saved_digest=b"",
            crls=crls,
        )
