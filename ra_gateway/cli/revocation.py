"""`ra-gateway revocation`: how fresh is what the gateway would know of revocations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ra_gateway.cli.output import (
    CONFIG,
    ConfigOption,
    JSONOption,
    plain,
    print_json,
    run,
    say,
    show_list,
)
from ra_gateway.errors import CMPError, SignerNotTrusted, StatusUnavailable

if TYPE_CHECKING:
    from ra_gateway.cmp.certificates import Certificate
    from ra_gateway.cmp.trust import Path as TrustPath
    from ra_gateway.cmp.trust import TrustDomain
    from ra_gateway.revocation.refreshing import Revocation
    from ra_gateway.revocation.sources import SourceState

_COLUMNS: Final = {
    "domain": "Domain",
    "mode": "Mode",
    "kind": "Kind",
    "source": "Source",
    "state": "State",
    "this_update": "Updated",
    "next_update": "Next update",
    "error": "Error",
}


def revocation(
    config: ConfigOption = CONFIG,
    certificate: Annotated[
        list[Path] | None,
        typer.Option(
            help="PEM of a base station's certificate, those above it may follow; may be repeated."
        ),
    ] = None,
    as_json: JSONOption = False,
) -> None:
    """Fetch every CRL and ask every OCSP responder once, and say how fresh the answers are."""
    from ra_gateway import logs
    from ra_gateway.app.revocation import gateway_revocation, revocation_tables
    from ra_gateway.app.trust import operator_domain, vendor_domains
    from ra_gateway.config.reading import load
    from ra_gateway.keys import load_certificates

    settings = load(config)
    logs.configure("console", "error")  # what fails is in the table
    operator, vendors = operator_domain(settings), vendor_domains(settings.vendors)
    chains = [load_certificates(path, "--certificate") for path in certificate or ()]
    modes = {
        domain.name: table.mode for domain, table in revocation_tables(settings, operator, vendors)
    }
    # Fetched anew, and nothing left behind: the directory of CRLs is a running gateway's.
    known = gateway_revocation(settings, operator, vendors, keeps_crls=False)
    states, verdicts = run(_ask(known, [operator, *vendors.values()], chains))
    rows = list(_rows(modes, states))
    if as_json:
        certificates = [{"accepted": is_good, "detail": text} for text, is_good in verdicts]
        print_json({"sources": list(map(plain, rows)), "certificates": certificates})
    else:
        show_list(_COLUMNS, rows, as_json=False, moment=lambda at: f"{at:%Y-%m-%dT%H:%M:%SZ}")
        for text, _ in verdicts:
            say(text)
    if any(state.last_error or not state.fresh for state in states) or not all(
        is_good for _, is_good in verdicts
    ):
        raise typer.Exit(1)


async def _ask(
    known: Revocation, domains: Sequence[TrustDomain], chains: Sequence[Sequence[Certificate]]
) -> tuple[list[SourceState], list[tuple[str, bool]]]:
    try:
        await known.fetch()
        verdicts = [await _verdict(known, domains, chain) for chain in chains]
        return known.states(), verdicts
    finally:
        await known.stop()


async def _verdict(
    known: Revocation, domains: Sequence[TrustDomain], chain: Sequence[Certificate]
) -> tuple[str, bool]:
    """Return what becomes of a certificate's holder, for people, and whether it may speak."""
    from ra_gateway.clocks import now

    leaf, *bag = chain
    moment, why = now(), "no domain"
    for domain in domains:
        try:
            path: TrustPath = domain.find_path(leaf, bag, moment)
        except CMPError as error:
            why = error.detail
            continue
        return await _status(known, domain.name, path, moment)
    return f"{leaf.subject}: belongs to no trust domain here ({why})", False


async def _status(
    known: Revocation, domain: str, path: TrustPath, moment: datetime
) -> tuple[str, bool]:
    who = f"{path[0].subject} ({domain})"
    try:
        # Twice, since what the first look teaches (a CRL's URL) is then fetched.
        try:
            await known.check(domain, path, moment)
        except StatusUnavailable:
            await known.fetch()
        notes = await known.check(domain, path, moment)
    except (SignerNotTrusted, StatusUnavailable) as error:
        return f"{who}: refused: {error.detail}", False
    return f"{who}: {'; '.join(notes) or 'accepted'}", True


def _rows(modes: Mapping[str, str], states: Sequence[SourceState]) -> Iterator[dict[str, Any]]:
    for domain, mode in modes.items():
        own = [state for state in states if state.domain == domain]
        if not own:
            why = "nobody is asked" if mode == "off" else "certificates name the sources"
            yield dict.fromkeys(_COLUMNS) | {"domain": domain, "mode": mode, "state": why}
        for state in own:
            yield {
                "domain": domain,
                "mode": mode,
                "kind": state.kind.value,
                "source": state.source,
                "state": _state(state),
                "this_update": state.this_update,
                "next_update": state.next_update,
                "error": state.last_error,
            }


def _state(state: SourceState) -> str:
    if state.this_update is None:
        return "failed" if state.last_error else "not asked yet"
    return "fresh" if state.fresh else "too old"
