"""Who knows what was revoked: each CRL and responder asked once, as the gateway would at its start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import datetime

from ra_gateway.app.doctor.results import Check, Result, Verdict
from ra_gateway.app.revocation import revocation, revocation_tables
from ra_gateway.app.trust import certificates, operator_domain, vendor_domains
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.config.tables import GatewayConfig, VendorConfig
from ra_gateway.config.trust_tables import RevocationConfig
from ra_gateway.config.values import OPERATOR_DOMAIN
from ra_gateway.errors import CMPError, ConfigError, SignerNotTrusted, StatusUnavailable
from ra_gateway.revocation.refreshing import Revocation
from ra_gateway.revocation.settings import Mode
from ra_gateway.revocation.sources import SourceKind, SourceState


async def examine_revocation(config: GatewayConfig, now: datetime) -> list[Result]:
    """Ask every source of a gateway once, and what they say of the CAs that it names; nothing is kept.

    Args:
        now: Aware UTC.
    """
    try:
        operator, vendors = operator_domain(config), vendor_domains(config.vendors)
        shown = certificates((config.ra.certificate_path, *config.ra.chain_paths), "ra")
    except ConfigError:
        return []  # rows of their own say what is wrong with the certificates
    tables = revocation_tables(config, operator, vendors)
    return await _examine(tables, {operator.name: shown}, now)


async def examine_vendors(vendors: Mapping[str, VendorConfig], now: datetime) -> list[Result]:
    """Ask every source of some vendors; as `examine_revocation`.

    Args:
        vendors: By name.
    """
    try:
        domains = vendor_domains(vendors)
    except ConfigError:
        return []
    tables = [(domain, vendors[name].revocation) for name, domain in domains.items()]
    return await _examine(tables, {}, now)


async def _examine(
    tables: Iterable[tuple[TrustDomain, RevocationConfig]],
    shown: Mapping[str, tuple[Certificate, ...]],
    now: datetime,
) -> list[Result]:
    asked = [
        # What a running gateway keeps is its own.
        (domain, table.model_copy(update={"crl_cache_path": None}))
        for domain, table in tables
        if table.mode != "off"
    ]
    known = revocation(asked)
    try:
        await known.fetch()
        of_cas = [
            result
            for domain, table in asked
            for ca in _cas(domain, shown.get(domain.name, ()))
            async for result in _of_ca(known, domain, table, ca, now)
        ]
        states = known.states()
    finally:
        await known.stop()
    of_sources = [
        _of_source(domain, table, state)
        for domain, table in asked
        for state in states
        if state.domain == domain.name
    ]
    return of_sources + of_cas


def _of_source(domain: TrustDomain, table: RevocationConfig, state: SourceState) -> Result:
    subject, where = _called(domain)
    check = Check(subject, f"revocation: {state.kind} {state.source}")
    until = "" if state.next_update is None else f", until {state.next_update:%Y-%m-%d %H:%M} UTC"
    came_back = f"fresh{until}" if state.fresh else f"too old{until}"
    if state.this_update is None:
        came_back = "failed" if state.last_error else "not asked yet"
    came_back = f"{came_back}: {state.last_error}" if state.last_error else came_back
    asked_later = state.this_update is None and not state.last_error
    if (state.fresh or asked_later) and not state.last_error:
        return check.ok(came_back)
    if state.parked:
        cause = "its issuer is not known before a base station sends it along"
        setting = f"{where}.intermediates_paths: the CA that signed it"
        return check.warning(came_back, cause, setting)
    verdict, cause = _unknown(table)
    setting = f"{where}.revocation.{_setting_of(state)}; whoever publishes it; the way there"
    if state.fresh:
        verdict = Verdict.warning
    return check.result(verdict, came_back, cause, setting)


def _setting_of(state: SourceState) -> str:
    if state.kind is SourceKind.ocsp:
        return "ocsp_url"
    return "crl_urls" if "://" in state.source else "crl_paths"


async def _of_ca(
    known: Revocation,
    domain: TrustDomain,
    table: RevocationConfig,
    ca: Certificate,
    now: datetime,
) -> AsyncIterator[Result]:
    subject, where = _called(domain)
    check = Check(subject, f"revocation of {ca.subject}")
    try:
        path = domain.find_path(ca, (), now)
    except CMPError:
        return  # a row of its own says that it is not valid
    try:
        try:
            notes = await known.check(domain.name, path, now)
        except StatusUnavailable:
            await known.fetch()  # what the first look taught
            notes = await known.check(domain.name, path, now)
    except SignerNotTrusted as error:
        cause = "nobody is believed whose certificate is below it"
        setting = f"{where}.intermediates_paths: the CA that follows it"
        yield check.fault(error.detail, cause, setting)
        return
    except StatusUnavailable as error:
        notes = (error.detail,)
    if not notes:
        yield check.ok("not revoked, as far as anybody says")
        return
    verdict, cause = _unknown(table)
    listing = (
        f"list it in {where}.intermediates_paths, or " if domain.name == OPERATOR_DOMAIN else ""
    )
    setting = f"{listing}{where}.revocation.crl_urls: the CRL of {ca.issuer}"
    yield check.result(verdict, "; ".join(notes), cause, setting)


def _unknown(table: RevocationConfig) -> tuple[Verdict, str]:
    if table.mode is Mode.hard:
        return Verdict.fault, "in mode hard whoever needs it is refused (systemUnavail)"
    return Verdict.warning, "in mode soft a revoked certificate is taken meanwhile"


def _cas(domain: TrustDomain, shown: Iterable[Certificate]) -> Iterator[Certificate]:
    for ca in dict.fromkeys((*domain.intermediates, *shown)):
        if ca.is_ca and ca not in domain.anchors:
            yield ca


def _called(domain: TrustDomain) -> tuple[str, str]:
    """Return what a domain is called in the table, and its table in the configuration."""
    if domain.name == OPERATOR_DOMAIN:
        return domain.name, domain.name
    return f"vendor {domain.name}", f"vendors.{domain.name}"
