"""`ra-gateway ca list`, `show`, `history` and `revoke`: what the CA has issued, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ra_gateway.ca.records import (
    NO_ENTITY,
    CertificateStatus,
    EntityStatus,
    Reason,
    Revocation,
)
from ra_gateway.cli.entities import entity_values, show_certificates
from ra_gateway.cli.ledger_context import actor, with_ledger
from ra_gateway.cli.output import (
    CONFIG,
    ConfigOption,
    JSONOption,
    day,
    plain,
    print_json,
    say,
    serial_number,
    show_facts,
    show_list,
)
from ra_gateway.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from ra_gateway.ca.ledger.ledger import Ledger
    from ra_gateway.config.ca_tables import CAConfig

SerialArgument = Annotated[str, typer.Argument(help="Serial number in hexadecimal.")]


def ca_list(
    entity: Annotated[str, typer.Option(help="Only those of this end entity.")] = "",
    status: Annotated[
        CertificateStatus | None, typer.Option(help="Only those that have it.")
    ] = None,
    expires_within: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="DAYS",
            help="Only valid ones that expire so soon and were not followed by another; the soonest first.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    as_json: JSONOption = False,
    config: ConfigOption = CONFIG,
) -> None:
    """List certificates, the newest first."""
    from ra_gateway.ca.ledger.listing import newest
    from ra_gateway.clocks import now

    found = with_ledger(
        config,
        lambda ledger, _: newest(
            ledger,
            now(),
            limit=limit,
            entity=entity,
            status=status,
            expires_within_days=expires_within,
        ),
    )
    show_certificates(found, as_json=as_json)


def ca_show(
    serial: SerialArgument,
    as_pem: Annotated[bool, typer.Option("--pem", help="Print the certificate itself.")] = False,
    as_json: JSONOption = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Show a certificate and what became of it."""
    from ra_gateway.clocks import now
    from ra_gateway.cmp.certificates import Certificate
    from ra_gateway.cmp.names import general_names, readable_text
    from ra_gateway.keys import pem

    number = serial_number(serial)
    found = with_ledger(config, lambda ledger, _: ledger.certificate(number, now()))
    if found is None:
        raise ConfigError.of(
            f"certificate {number:x}",
            "was not issued here",
            "`ra-gateway ca list` shows the newest",
        )
    if as_pem:
        for line in pem(found.der).splitlines():
            say(line)
        return
    certificate = Certificate.from_der(found.der)
    names = certificate.subject_alt_name_der
    values = {
        "serial": f"{number:x}",
        "status": found.status,
        "revoked_at": found.revoked_at,
        "reason": found.reason,
        "subject": certificate.subject,
        "names": () if names is None else tuple(map(readable_text, general_names(names))),
        "entity": found.entity,
        "profile": found.profile,
        "requester": found.requester,
        "vendor": found.vendor,
        "identity": found.identity,
        "issuer": certificate.issuer,
        "not_before": certificate.not_before,
        "not_after": certificate.not_after,
        "fingerprint": certificate.fingerprint.hex(),
    }
    if not as_json:
        values["not_before"] = f"{day(certificate.not_before)} to {day(certificate.not_after)} UTC"
    show_facts(_FACTS, values, as_json=as_json)


_FACTS: Final = {
    "serial": "Serial",
    "status": "Status",
    "revoked_at": "Revoked",
    "reason": "Reason",
    "subject": "Subject",
    "names": "Names",
    "entity": "End entity",
    "profile": "Profile",
    "vendor": "Vendor",
    "identity": "Identity",
    "issuer": "Issuer",
    "not_before": "Valid",
    "fingerprint": "Fingerprint",
}


def ca_history(
    device: Annotated[
        str,
        typer.Argument(
            metavar="DEVICE",
            help="What its vendor calls it, a serial number, or its end entity's name or subject, or a part of these.",
        ),
    ],
    limit: Annotated[int, typer.Option(min=1, help="How many events at most.")] = 100,
    as_json: JSONOption = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Show what became of one base station: enrolments, renewals, refusals to confirm, revocations, blocks."""
    from ra_gateway.ca.ledger.history import history
    from ra_gateway.cmp.names import readable_text

    found = with_ledger(config, lambda ledger, _: history(ledger, device, limit=limit))
    events: list[dict[str, Any]] = [
        {
            "at": item.entry.at,
            "action": item.entry.action,
            "entity": item.entity,
            "subject": item.entry.subject,
            "actor": item.entry.actor,
            "detail": {key: readable_text(text) for key, text in item.entry.detail.items()},
        }
        for item in found.events
    ]
    entities = [
        {"name": name, "status": None} if entity is None else entity_values(entity)
        for name, entity in found.entities.items()
    ]
    if as_json:
        devices = [{"vendor": vendor, "identity": name} for vendor, name in found.devices]
        print_json(plain({"entities": entities, "devices": devices, "events": events}))
        return
    for values in entities:
        say(f"{values['name']}: {values['status'] or 'not registered any more'}")
    for device_names in found.devices:
        say(f"Device: {': '.join(filter(None, device_names))}")
    columns = {
        "at": "When (UTC)",
        "action": "What",
        "subject": "Of",
        "actor": "By",
        "detail": "Detail",
    }
    rows = [row | {"detail": _told(row["detail"])} for row in events]
    show_list(columns, rows, as_json=False, moment=lambda at: f"{at:%Y-%m-%d %H:%M:%S}")


def _told(detail: dict[str, str]) -> dict[str, str]:
    """Return what of a line of the audit trail is for people: the rest is for `ca verify`."""
    return {name: detail[name] for name in _TOLD if name in detail}


_TOLD: Final = (
    *("request", "profile", "vendor", "identity", "renews", "supersedes", "reason", "why"),
    *("transaction_id", "subject", "names"),
)


def known_reason(name: str) -> str:
    """Return a reason's name, if it is one."""
    if name not in Reason.__members__:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(Reason.__members__)}")
    return name


def ca_revoke(
    serial: SerialArgument,
    reason: Annotated[
        str,
        typer.Option(
            metavar="REASON",
            help=f"{', '.join(item.name for item in Reason)}.",
            callback=known_reason,
        ),
    ],
    device: Annotated[
        bool,
        typer.Option(
            "--device",
            help="Its device, for good: block the end entity, and revoke all that it holds.",
        ),
    ] = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Revoke a certificate, or release it from hold; its end entity may come back unless it is blocked."""
    number, why = serial_number(serial), Reason[reason]
    if device and why is Reason.removeFromCRL:
        raise typer.BadParameter("--device is not for removeFromCRL, which gives one back")

    async def revoke(ledger: Ledger, settings: CAConfig) -> list[str]:
        await _adopt_registered(ledger, number, settings.directory_path)
        return await (_revoke_device if device else _revoke_one)(ledger, number, why)

    for sentence in with_ledger(config, revoke):
        say(sentence)
    say(
        "OCSP answers say so now; CRLs as soon as the CA that serves looks, or `ra-gateway ca crl` is run."
    )


async def _adopt_registered(ledger: Ledger, number: int, directory: Path) -> None:
    """Let the ledger know the certificate of a registered RA that `init` or `ca issue-ra` made without it."""
    from ra_gateway.ca.by_hand import adopt
    from ra_gateway.ca.hierarchy import issued_by
    from ra_gateway.ca.keys import issuing_certificates
    from ra_gateway.clocks import now
    from ra_gateway.cmp.certificates import load_certificate

    if await ledger.certificate(number, now()) is not None:
        return
    issuers = issuing_certificates(directory)
    for authority in await ledger.registry.authorities():
        for certificate in map(load_certificate, authority.certificates):
            issuer = issuers.get((certificate.authority_key_identifier or b"").hex())
            if (
                certificate.serial_number == number
                and issuer is not None
                and issued_by(certificate, issuer)
            ):
                await adopt(certificate, ledger, actor=actor(), now=now())
                return


async def _revoke_one(ledger: Ledger, number: int, why: Reason) -> list[str]:
    from ra_gateway.clocks import now

    await ledger.revoke(Revocation(number, why, actor()), now())
    if why is Reason.removeFromCRL:
        return [f"Released {number:x} from hold."]
    said = [f"Revoked {number:x} ({why.name})."]
    found = await ledger.certificate(number, now())
    entity = await ledger.registry.entity(found.entity) if found and found.entity else None
    if entity is not None and entity.status is EntityStatus.active:
        said.append(
            f"The end entity {entity.name} stays active and may have another certificate at once. "
            f"To stop that: ra-gateway ca revoke {number:x} --reason {why.name} --device"
        )
    return said


async def _revoke_device(ledger: Ledger, number: int, why: Reason) -> list[str]:
    """Block the end entity of a certificate, then revoke what it holds; what is revoked already stays so."""
    from ra_gateway.ca.ledger.listing import held_by
    from ra_gateway.clocks import now

    found = await ledger.certificate(number, now())
    if found is None or found.entity == NO_ENTITY:
        raise ConfigError.of(
            f"certificate {number:x}",
            "is no device's",
            "`ra-gateway ca list` shows whose there are; without --device, it alone is revoked",
        )
    name = found.entity
    # First, so that nothing new comes in between.
    await ledger.registry.set_entity_status(name, EntityStatus.blocked, actor(), now())
    said = [f"Blocked {name}; `ra-gateway ca entity unblock` lets it come back."]
    for serial in await held_by(
        ledger, name, now(), even_on_hold=why is not Reason.certificateHold
    ):
        await ledger.revoke(Revocation(int(serial, 16), why, actor()), now())
        said.append(f"Revoked {serial} ({why.name}).")
    return said
