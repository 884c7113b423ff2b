"""What one trust domain knows about the revocation of its certificates.

CRLs are kept by the name and the key of the CA that signed them: a CA that changed its key may publish one CRL
for each. A serial number that any CRL of the issuer's name lists is revoked, however old that CRL is; that a
certificate is *not* revoked is told only by a fresh CRL under the very key that signed the certificate, whose scope
covers it, or by a fresh answer of an OCSP responder (`ra_gateway.revocation.ocsp`). Where both are asked, one is
enough to refuse, and one to accept.

Nothing that a message merely brings along is used. A certificate teaches this module something (the URL of a CRL or
of a responder, a CA that signs CRLs) only as part of a path to the domain's anchor, in a message that its key
protected.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Final

import structlog

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crl import (
    CRL,
    NotThisIssuer,
    ReceivedCRL,
    distribution_point_names,
    distribution_point_urls,
    open_crl,
    split_crls,
    verify_crl,
)
from ra_gateway.cmp.names import CanonicalName, canonical
from ra_gateway.cmp.ocsp import responder_urls
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.trust import DomainKind, Path, TrustDomain
from ra_gateway.errors import (
    CMPError,
    CRLRefused,
    OCSPRefused,
    SignerNotTrusted,
    StatusRefused,
    StatusUnavailable,
    printable,
)
from ra_gateway.revocation.fetching import (
    Environment,
    Limits,
    file_state,
    read_file,
    save_file,
    saved_path,
)
from ra_gateway.revocation.ocsp import Responders, ResponderState
from ra_gateway.revocation.settings import Mode, RevocationSettings
from ra_gateway.revocation.sources import Source, SourceKind, SourceState

MAX_LEARNED: Final = 64
"""CAs, and URLs, that certificates of a domain may teach: a vendor has a handful."""

MAX_CRLS_PER_SOURCE: Final = 16
"""In one PEM file."""

_MOST_CAS_ABOVE: Final = 4
"""Whose own revocation is looked at before a CRL counts; above that it does."""

_MAX_TEXT: Final = 1000

_FILE_CHECK_SECONDS: Final = 10.0
"""From one look at a file's state to the next: so late at most is a new CRL on disk seen."""

_FIRST_RETRY_SECONDS: Final = 15.0
"""After a failure; twice as long after each further one, up to the usual time."""

_STALE_RETRY_SECONDS: Final = 300.0
"""While a CRL in use has expired: its issuer is late, or what published it is."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.revocation")

_IssuerKey = tuple[CanonicalName, bytes]
"""Name and SubjectPublicKeyInfo of a CA."""


class DomainRevocation:
    """CRLs and OCSP answers of one trust domain.

    Args:
        learned: Called when a message taught a source, which is to be fetched soon.
    """

    def __init__(
        self,
        domain: TrustDomain,
        settings: RevocationSettings,
        environment: Environment,
        *,
        learned: Callable[[], None] = lambda: None,
    ) -> None:
        self.domain = domain
        self.settings = settings
        self._clock = environment.clock
        self._monotonic = environment.monotonic
        self._downloader = environment.downloader
        self._early_share = environment.early_share
        self._learned = learned
        self._since = self._clock()
        self._grace = timedelta(seconds=settings.grace_seconds)
        age = settings.max_age_seconds
        self._max_age = timedelta(seconds=age) if age else None
        wheres: tuple[FilePath | str, ...] = (*settings.crl_paths, *settings.crl_urls)
        self._sources = {where: Source(where) for where in wheres}
        self._most_sources = len(self._sources) + MAX_LEARNED
        self._learned_cas: dict[Certificate, None] = {}
        self._in_use: dict[_IssuerKey, list[CRL]] = {}
        self._revoked_by: dict[CanonicalName, list[CRL]] = {}
        # One large CRL at a time: several would take all threads, and their memory at once.
        self._reading = asyncio.Lock()
        self._learning = asyncio.Lock()
        self._responders: Responders | None = None
        if settings.ocsp.enabled:
            self._responders = Responders(
                domain.name,
                domain.algorithms,
                settings.ocsp,
                environment,
                is_allowed=self.settings.allows,
                require_responder=self._require_responder,
                is_optional=self._is_stated,
            )

    def go_on_from(self, before: DomainRevocation) -> None:
        """Know at once what another one knows, as far as it would take that up itself; all is fetched again soon.

        Args:
            before: Of the same domain, under a configuration that this one's takes the place of.
        """
        if before.domain.algorithms != self.domain.algorithms:
            return  # its signatures were not judged as these would be
        now, self._since = self._clock(), before._since
        for ca in before._learned_cas:
            with suppress(CMPError):
                self.domain.find_path(ca, tuple(before._learned_cas), now)
                self._learned_cas[ca] = None
        keys = set(map(_key_of, self._cas(now)))
        for where, source in before._sources.items():
            is_learned = self.settings.from_certificates and isinstance(where, str)
            if where in self._sources or (is_learned and self.settings.allows(str(where))):
                crls = tuple(crl for crl in source.crls if _key_of(crl.issuer) in keys)
                self._sources[where] = source.again(crls)
        self._rebuild()
        if self._responders is not None and before._responders is not None:
            self._responders.go_on_from(
                before._responders, with_good=before.settings.mode is self.settings.mode
            )

    # --- asking -----------------------------------------------------------------------------------------------

    async def check(self, path: Path, now: datetime) -> tuple[str, ...]:
        """Refuse a path with a revoked certificate; see `ra_gateway.ra.ports.RevocationStatus`."""
        if len(path) > 1 and not self._is_revoked(path[1:]):  # a revoked CA teaches nothing
            await self._learn(path)
        for certificate in path:
            self._require_not_listed(certificate)
        if self._responders is not None:
            await self._responders.look_up(self._to_ask_about(pairwise(path), now), now)
        self._require_not_revoked(path)
        unknown = [
            why
            for certificate, issuer in pairwise(path)
            if not self._is_stated(certificate, issuer)
            and (why := self._unknown(certificate, issuer, now))
        ]
        if unknown and self.settings.mode is Mode.hard:
            raise StatusUnavailable("; ".join(unknown), rule="R23")
        return tuple(f"accepted although {why}" for why in unknown)

    def states(self, now: datetime) -> list[SourceState]:
        """Return what each source has given, for logs and people."""
        crls = [
            state for source in self._sources.values() for state in self._states_of(source, now)
        ]
        responders = () if self._responders is None else self._responders.states()
        return [*crls, *(self._responder_state(state, now) for state in responders)]

    async def look_up_cas(self) -> None:
        """Ask the responders about the CAs that are known, before a message has to wait for it."""
        if self._responders is not None:
            now = self._clock()
            bag = tuple(self._learned_cas)
            paths = [self.domain.find_path(ca, bag, now) for ca in self._cas(now)]
            pairs = [(path[0], path[1]) for path in paths if len(path) > 1]
            await self._responders.look_up(self._to_ask_about(pairs, now), now)

    def _to_ask_about(
        self, pairs: Iterable[tuple[Certificate, Certificate]], now: datetime
    ) -> Iterator[tuple[Certificate, Certificate]]:
        """Leave out CAs that a fresh CRL covers: roots publish CRLs, and rarely have a responder."""
        for certificate, issuer in pairs:
            if not certificate.is_ca or self._not_on_crl(certificate, issuer, now):
                yield certificate, issuer

    async def stop(self) -> None:
        """End what is under way."""
        if self._responders is not None:
            await self._responders.stop()

    def _require_not_revoked(self, path: Path) -> None:
        for certificate in path:
            self._require_not_listed(certificate)
        if self._responders is not None:
            for certificate in path:
                self._responders.require_not_revoked(certificate)

    def _is_revoked(self, path: Path) -> bool:
        try:
            self._require_not_revoked(path)
        except SignerNotTrusted:
            return True
        return False

    def _require_not_listed(self, certificate: Certificate) -> None:
        crl = self._listed_on(certificate)
        if crl is not None:
            raise SignerNotTrusted(
                f"{certificate.subject} (serial {certificate.serial_number:x}) is revoked: the {crl} lists it",
                rule="R23",
            )

    def _listed_on(
        self, certificate: Certificate, asked: frozenset[_IssuerKey] = frozenset()
    ) -> CRL | None:
        """Return a CRL that lists a certificate, of those that count now; None if there is none.

        Args:
            asked: Keys of CAs of which it is being found out whether they count: CAs may certify each other.
        """
        if certificate in self.domain.anchors:
            return None  # whom nobody vouches for, nobody can revoke: it is taken out of the configuration
        judged: dict[_IssuerKey, bool] = {}
        for crl in self._revoked_by.get(certificate.id.issuer, ()):
            key = _key_of(crl.issuer)
            if certificate.serial_number in crl.revoked and key not in asked:
                if key not in judged:
                    judged[key] = self._counts(key, crl.issuer, asked | {key})
                if judged[key]:
                    return crl
        return None

    def _counts(self, key: _IssuerKey, issuer: Certificate, asked: frozenset[_IssuerKey]) -> bool:
        """Tell whether a CA's CRLs count: not once it is itself revoked, for its key may be another's by then.

        Who has that key could otherwise list the certificates of the CA's successor, which has the same name.
        """
        if len(asked) > _MOST_CAS_ABOVE:
            return True
        known = dict.fromkeys(
            (issuer, *self.domain.anchors, *self.domain.intermediates, *self._learned_cas)
        )
        return any(_key_of(ca) == key and self._listed_on(ca, asked) is None for ca in known)

    def _require_responder(self, responder: Certificate, issuer: Certificate) -> None:
        """Refuse a responder that may itself be revoked; nobody is asked about one that says it need not be.

        Raises:
            SignerNotTrusted: It is listed.
            OCSPRefused: Nobody can tell, and the domain insists.
        """
        self._require_not_listed(responder)
        if OID.ocspNoCheck in responder.extensions or self.settings.mode is Mode.soft:
            return
        if why := self._not_on_crl(responder, issuer, self._clock()):
            raise OCSPRefused(f"the responder has no id-pkix-ocsp-nocheck, and {why}")

    def _unknown(self, certificate: Certificate, issuer: Certificate, now: datetime) -> str:
        """Return why it cannot be told whether a certificate is revoked; "" if it can."""
        whys = []
        if self._responders is not None:
            if not (why := self._responders.unknown(certificate, issuer, now)):
                return ""
            whys.append(why)
        if self._responders is None or self._sources:
            if not (why := self._not_on_crl(certificate, issuer, now)):
                return ""
            whys.append(why)
        return f"nobody can tell whether {certificate} is revoked: {'; '.join(whys)}"

    def _is_stated(self, certificate: Certificate, issuer: Certificate) -> bool:
        """Tell whether a CA stands by the operator's own word, since nobody else says anything of it.

        The operator lists it, its certificate names no place where its status is published, and no source gives
        a CRL of its issuer. A source that has given nothing might have been the one.
        """
        return (
            self.domain.kind is DomainKind.operator
            and certificate in self.domain.intermediates
            and not distribution_point_names(certificate)
            and not responder_urls(certificate)
            and not self._in_use.get(_key_of(issuer))
            and all(source.crls for source in self._sources.values())
        )

    def _not_on_crl(self, certificate: Certificate, issuer: Certificate, now: datetime) -> str:
        """Return why no CRL tells that a certificate is not revoked; "" if one does."""
        known = self._in_use.get(_key_of(issuer), [])
        held = [crl for crl in known if crl.scope.covers(certificate)]
        if any(now <= crl.fresh_until(self._grace, self._max_age) for crl in held):
            return ""
        if held:
            newest = max(held, key=lambda crl: crl.this_update)
            until = newest.fresh_until(self._grace, self._max_age)
            what = f"the {newest} is too old since {until:%Y-%m-%dT%H:%M:%SZ}"
        elif known:
            what = f"no CRL of {issuer} covers it: they are for other distribution points or kinds"
        else:
            what = f"no CRL of {issuer} was received since {self._since:%Y-%m-%dT%H:%M:%SZ}"
        return f"{what}{self._failures()}"

    def _failures(self) -> str:
        failing = [source for source in self._sources.values() if source.last_error]
        if not failing:
            return "" if self._sources else " (no source of CRLs is known)"
        told = [
            f"{source.where}: {source.last_error}, since {source.failing_since or self._since:%Y-%m-%dT%H:%M:%SZ}"
            for source in failing[:3]
        ]
        return f" ({'; '.join(told)})"

    def _states_of(self, source: Source, now: datetime) -> Iterator[SourceState]:
        for crl in source.crls or (None,):
            yield SourceState(
                domain=self.domain.name,
                source=str(source.where),
                issuer="" if crl is None else crl.issuer.subject,
                number=None if crl is None else crl.number,
                this_update=None if crl is None else crl.this_update,
                next_update=None if crl is None else crl.next_update,
                entries=0 if crl is None else len(crl.revoked),
                fresh=crl is not None and now <= crl.fresh_until(self._grace, self._max_age),
                fetched_at=source.fetched_at,
                last_error=source.last_error,
                failing_since=source.failing_since,
                parked=bool(source.parked or source.awaited),
            )

    def _responder_state(self, state: ResponderState, now: datetime) -> SourceState:
        return SourceState(
            domain=self.domain.name,
            source=state.url,
            this_update=state.this_update,
            next_update=state.fresh_until,
            entries=state.answers,
            fresh=state.fresh_until is not None and now <= state.fresh_until,
            fetched_at=state.answered_at,
            last_error=state.last_error,
            failing_since=state.failing_since,
            kind=SourceKind.ocsp,
        )

    # --- learning ---------------------------------------------------------------------------------------------

    async def _learn(self, path: Path) -> None:
        """Take up CAs and URLs of a path that leads to an anchor."""
        async with self._learning:  # who comes second waits for what the first had verified
            for ca in path[1:-1]:
                if ca in self._learned_cas or ca in self.domain.intermediates:
                    continue
                if len(self._learned_cas) < MAX_LEARNED:
                    self._learned_cas[ca] = None
                    await self._use_parked(ca)
        if self.settings.from_certificates:
            self._learn_urls(path[:-1])

    async def _use_parked(self, ca: Certificate) -> None:
        """Verify what was fetched before anybody knew its issuer; have fetched again what was not kept."""
        name = canonical(ca.subject_der)
        for source in list(self._sources.values()):
            if name in source.awaited:
                source.due = source.full_due = self._monotonic()
                source.digest = b""
                self._learned()
            for received in source.parked:
                if canonical(received.issuer_der) != name:
                    continue
                try:
                    async with self._reading:
                        crl = await asyncio.to_thread(self._verify, received, (ca,), self._clock())
                    self._require_newest(crl)
                except CRLRefused:
                    continue
                source.parked = tuple(item for item in source.parked if item is not received)
                source.crls = (*source.crls, crl)
                if not source.parked and not source.awaited:
                    source.last_error, source.failing_since = "", None
                self._rebuild()
                self._tell(source, crl)

    def _learn_urls(self, certificates: Iterable[Certificate]) -> None:
        for certificate in certificates:
            for url in distribution_point_urls(certificate):
                if url in self._sources or not self.settings.allows(url):
                    continue
                if len(self._sources) >= self._most_sources:
                    log.warning("revocation.too_many_urls", domain=self.domain.name, source=url)
                    return
                self._sources[url] = Source(url)
                log.info("revocation.learned", domain=self.domain.name, source=url)
                self._learned()

    # --- refreshing -------------------------------------------------------------------------------------------

    @property
    def patience_seconds(self) -> float:
        """For how long a start waits for what this domain fetches at first."""
        return self.settings.timeout_seconds + self.settings.ocsp.timeout_seconds

    @property
    def due(self) -> float | None:
        """Monotonic seconds at which the next source is due; None if there is no source."""
        return min((source.due for source in self._sources.values()), default=None)

    async def refresh(self) -> None:
        """Fetch what is due, and take up what is in order; failures are told in the log."""
        moment = self._monotonic()
        due = [source for source in self._sources.values() if source.due <= moment]
        await asyncio.gather(*(self._refresh(source) for source in due))

    async def _refresh(self, source: Source) -> None:
        if isinstance(source.where, FilePath) and self._is_unchanged(source, source.where):
            source.due = self._monotonic() + self._file_check_seconds
            return
        try:
            if isinstance(source.where, str):
                await self._restore(source, source.where)
            octets = await self._fetch(source)
            await self._take(source, octets, self._clock())
            if isinstance(source.where, str):
                await self._save(source, source.where, octets)
        except StatusRefused as error:
            self._failed(source, str(error))
        except Exception as error:  # a bug must not end the refreshing of all sources
            log.exception("revocation.bug", domain=self.domain.name, source=str(source.where))
            self._failed(source, f"{type(error).__name__}: {error}")
        self._schedule(source)

    @property
    def _file_check_seconds(self) -> float:
        return min(_FILE_CHECK_SECONDS, self.settings.refresh_seconds)

    def _is_unchanged(self, source: Source, path: FilePath) -> bool:
        if self._monotonic() >= source.full_due:
            return False
        try:
            return file_state(path) == source.file_state
        except StatusRefused:
            return False

    async def _fetch(self, source: Source) -> bytes:
        limit = self.settings.max_crl_bytes
        if isinstance(source.where, FilePath):
            source.file_state = None
            source.file_state = file_state(source.where)
            return await asyncio.to_thread(read_file, source.where, limit)
        limits = Limits(limit, self.settings.timeout_seconds, "max_crl_bytes")
        return await self._downloader.get(source.where, limits)

    async def _restore(self, source: Source, url: str) -> None:
        """Take up, once, what a URL gave before a restart; it is verified like everything else."""
        directory = self.settings.crl_cache_path
        if source.restored or directory is None:
            return
        source.restored = True
        path = saved_path(directory, self.domain.name, url)
        try:
            fetched_at = datetime.fromtimestamp(file_state(path)[3] / 1e9, UTC)
            octets = await asyncio.to_thread(read_file, path, self.settings.max_crl_bytes)
            await self._take(source, octets, fetched_at)
            source.saved_digest = source.digest
        except (
            StatusRefused
        ) as error:  # there is none, or it is of no use: it is fetched now anyway
            log.info(
                "revocation.not_restored", domain=self.domain.name, source=url, detail=str(error)
            )

    async def _save(self, source: Source, url: str, octets: bytes) -> None:
        directory = self.settings.crl_cache_path
        if directory is None or source.saved_digest == source.digest:
            return
        try:
            path = saved_path(directory, self.domain.name, url)
            await asyncio.to_thread(save_file, path, octets)
            source.saved_digest = source.digest
        except StatusRefused as error:  # it is in use all the same
            log.warning(
                "revocation.not_saved", domain=self.domain.name, source=url, detail=str(error)
            )

    async def _take(self, source: Source, octets: bytes, fetched_at: datetime) -> None:
        """Decode and verify outside of the event loop; replace what the source gave before, if all is well."""
        now, began = self._clock(), self._monotonic()
        digest = await asyncio.to_thread(_digest, octets)
        unchanged = digest == source.digest and bool(source.crls) and not source.last_error
        if unchanged:
            source.fetched_at = fetched_at
            log.debug("revocation.unchanged", domain=self.domain.name, source=str(source.where))
            return
        async with self._reading:
            received = await asyncio.to_thread(_open, octets)
            cas = self._cas(now)
            crls, unknown, errors = await asyncio.to_thread(self._sort, received, cas, now)
        # What messages taught meanwhile counts too: it is added by `_use_parked`, hence sorted again next time.
        for crl in crls:
            try:
                self._require_newest(crl)
            except CRLRefused as error:
                errors.append(str(error))
        accepted = tuple(crl for crl in crls if self._is_newest(crl))
        source.digest = digest
        self._park(source, unknown)
        source.crls = _merged(source.crls, accepted)
        self._rebuild()
        for crl in accepted:
            self._tell(source, crl, size_bytes=len(octets), seconds=self._monotonic() - began)
        if errors:
            raise CRLRefused("; ".join(errors))
        source.fetched_at = fetched_at
        source.failures, source.last_error, source.failing_since = 0, "", None

    def _park(self, source: Source, unknown: Sequence[ReceivedCRL]) -> None:
        """Keep CRLs until their issuers are known, as many octets of them as one CRL may have in all."""
        source.parked, source.awaited = (), ()
        used = sum(len(item.der) for other in self._sources.values() for item in other.parked)
        for item in unknown:
            used += len(item.der)
            if used <= self.settings.max_crl_bytes:
                source.parked += (item,)
            else:
                source.awaited += (canonical(item.issuer_der),)

    def _cas(self, now: datetime) -> tuple[Certificate, ...]:
        """Return the CA certificates of the domain that are valid now, down from its anchors."""
        bag = tuple(self._learned_cas)
        found = []
        for ca in dict.fromkeys((*self.domain.anchors, *self.domain.intermediates, *bag)):
            try:
                path = self.domain.find_path(ca, bag, now)
                self._require_not_revoked(path)
            except CMPError:
                continue
            found.append(ca)
        return tuple(found)

    def _sort(
        self, received: Sequence[ReceivedCRL], cas: Sequence[Certificate], now: datetime
    ) -> tuple[list[CRL], list[ReceivedCRL], list[str]]:
        """Tell verified CRLs from those whose issuer is not known yet, and say what is wrong with the others."""
        crls, parked, errors = [], [], []
        for item in received:
            try:
                crls.append(self._verify(item, cas, now))
            except _UnknownIssuer as error:
                parked.append(item)
                errors.append(str(error))
            except CRLRefused as error:
                errors.append(str(error))
        return crls, parked, errors

    def _verify(self, received: ReceivedCRL, cas: Sequence[Certificate], now: datetime) -> CRL:
        refusal: CRLRefused | None = None
        issuer = canonical(received.issuer_der)
        for ca in cas:
            if canonical(ca.subject_der) != issuer:
                continue
            try:
                return verify_crl(received, ca, self.domain.algorithms, now)
            except NotThisIssuer as error:
                refusal = refusal or error
        if refusal is not None:
            # Another key of the same name may come along with a path.
            raise _UnknownIssuer(str(refusal)) from refusal
        raise _UnknownIssuer(
            f"the issuer {received.issuer} is no CA certificate known here (intermediates_paths)"
        )

    # --- what is in use ---------------------------------------------------------------------------------------

    def _rebuild(self) -> None:
        """Put the newest CRL of each issuer, key and scope into the tables that requests look up."""
        newest: dict[tuple[_IssuerKey, object], CRL] = {}
        for source in self._sources.values():
            for crl in source.crls:
                place = (_key_of(crl.issuer), crl.scope)
                held = newest.get(place)
                if held is None or not _is_older(crl, held):
                    newest[place] = crl
        in_use: dict[_IssuerKey, list[CRL]] = {}
        revoked_by: dict[CanonicalName, list[CRL]] = {}
        for (key, _), crl in newest.items():
            in_use.setdefault(key, []).append(crl)
            revoked_by.setdefault(key[0], []).append(crl)
        self._in_use, self._revoked_by = in_use, revoked_by

    def _require_newest(self, crl: CRL) -> None:
        for held in self._held(crl):
            crl.require_not_older_than(held)

    def _is_newest(self, crl: CRL) -> bool:
        return not any(_is_older(crl, held) for held in self._held(crl))

    def _held(self, crl: CRL) -> list[CRL]:
        known = self._in_use.get(_key_of(crl.issuer), ())
        return [held for held in known if held.scope == crl.scope]

    # --- telling and scheduling -------------------------------------------------------------------------------

    def _tell(self, source: Source, crl: CRL, *, size_bytes: int = 0, seconds: float = 0.0) -> None:
        now = self._clock()
        until = crl.fresh_until(self._grace, self._max_age)
        ends = {} if crl.next_update is None else {"next_update": crl.next_update.isoformat()}
        (log.info if now <= until else log.warning)(
            "revocation.refreshed",
            domain=self.domain.name,
            source=str(source.where),
            issuer=crl.issuer.subject,
            number=crl.number,
            entries=len(crl.revoked),
            size_bytes=size_bytes,
            this_update=crl.this_update.isoformat(),
            **ends,
            age_seconds=round((now - crl.this_update).total_seconds()),
            fresh_seconds=round((until - now).total_seconds()),
            duration_ms=round(seconds * 1000.0, 1),
        )

    def _failed(self, source: Source, why: str) -> None:
        now = self._clock()
        # There may be names in it of whoever sent what is no CRL of ours
        why = printable(why, _MAX_TEXT)
        source.failures += 1
        source.last_error = why
        source.failing_since = source.failing_since or now
        log.warning(
            "revocation.failed",
            domain=self.domain.name,
            source=str(source.where),
            detail=why,
            failing_since=source.failing_since.isoformat(),
            mode=self.settings.mode.value,
        )

    def _schedule(self, source: Source) -> None:
        """Say when a source is due again: early after a failure, and when what it gave ends."""
        wait = self.settings.refresh_seconds
        if source.failures:
            wait = min(wait, _FIRST_RETRY_SECONDS * 2 ** min(source.failures - 1, 20))
        now = self._clock()
        ends = [crl.next_update for crl in source.crls if crl.next_update is not None]
        left = [(end - now).total_seconds() if end > now else _STALE_RETRY_SECONDS for end in ends]
        wait = max(min([wait, *left]), min(1.0, self.settings.refresh_seconds))
        moment, is_file = self._monotonic(), isinstance(source.where, FilePath)
        source.due = source.full_due = moment + wait * (1 if is_file else 1 - self._early_share)
        if is_file:
            source.due = min(source.due, moment + self._file_check_seconds)


class _UnknownIssuer(CRLRefused):
    """A CRL of a CA whose certificate is not known; it may come along with a device's."""


def _digest(octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()


def _open(octets: bytes) -> list[ReceivedCRL]:
    return [open_crl(part) for part in split_crls(octets, MAX_CRLS_PER_SOURCE)]


def _key_of(ca: Certificate) -> _IssuerKey:
    return canonical(ca.subject_der), ca.spki_der


def _is_older(crl: CRL, held: CRL) -> bool:
    try:
        crl.require_not_older_than(held)
    except CRLRefused:
        return True
    return False


def _merged(before: tuple[CRL, ...], accepted: tuple[CRL, ...]) -> tuple[CRL, ...]:
    """Return what a source gave now, and what it gave before under keys and scopes it is silent about."""
    places = {(_key_of(crl.issuer), crl.scope) for crl in accepted}
    kept = (crl for crl in before if (_key_of(crl.issuer), crl.scope) not in places)
    return (*accepted, *kept)
