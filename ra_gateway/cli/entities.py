"""`ra-gateway ca entity`: who may hold certificates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from ra_gateway.app import now
from ra_gateway.app.issuance import Certifier
from ra_gateway.app.profiles import ca_profiles, grantable
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.ledger.listing import newest
from ra_gateway.ca.records import CertificateStatus, EndEntity, EntityStatus
from ra_gateway.cli.ledger_context import OPERATOR, actor, with_ledger
from ra_gateway.cli.output import (
    CONFIG,
    Commands,
    ConfigOption,
    day,
    note,
    progress,
    say,
    show_facts,
    show_table,
)
from ra_gateway.cmp.names import split_general_names
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.config.reading import load_ca
from ra_gateway.errors import ConfigError, Problem
from ra_gateway.stores.rows import read_rows, refuse

CSV_COLUMNS: Final = ("name", "subject", "names", "profile", "vendor", "identity")

_MOST_LOOKED_AT: Final = 100
"""Imported end entities whose names are tried: names that are wrong are so in most of them."""

entity_app = Commands(
    name="entity", help="End entities: who may hold certificates.", no_args_is_help=True
)

EntityName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the end entity.")]


@entity_app.command("add")
def entity_add(
    name: EntityName,
    subject: Annotated[str, typer.Option(help="Subject of its certificates, RFC 4514.")],
    san: Annotated[
        list[str] | None,
        typer.Option(
            help="Name it may have, such as dns:enb1.example.net; ip:, uri:, email: and dn: too."
        ),
    ] = None,
    profile: Annotated[str, typer.Option(help="Certificate profile; else the default one.")] = "",
    vendor: Annotated[str, typer.Option(help="Vendor that vouches for it in client mode.")] = "",
    identity: Annotated[
        str, typer.Option(help="What names it in its vendor certificate (client mode).")
    ] = "",
    config: ConfigOption = CONFIG,
) -> None:
    """Register an end entity."""
    entity = EndEntity(name, subject, tuple(san or ()), profile, vendor, identity)
    known = _Known(config)
    problems = list(known.problems(f"entity {name}", entity))
    if problems:
        raise ConfigError(problems)

    with_ledger(
        config,
        lambda ledger, settings: ledger.registry.add_entity(
            _with_window(entity, settings), actor(), now()
        ),
    )
    say(f"Registered {name}.")
    known.warn([entity])


class _Known:
    """Names that the configuration knows, and which the CA certifies."""

    def __init__(self, path: Path) -> None:
        config = load_ca(path)
        self._config = config.ca
        self._names = {
            "profile": grantable(ca_profiles(config.ca)),
            "vendor": sorted(config.vendors),
        }

    def problems(self, where: str, entity: EndEntity) -> Iterable[Problem]:
        """Yield what an end entity names that does not exist."""
        for what, name in (("profile", entity.profile), ("vendor", entity.vendor)):
            if name and name not in self._names[what]:
                known = ", ".join(self._names[what]) or "none at all"
                yield Problem(where, f"there is no {what} {name!r} for it", f"There are: {known}")

    def warn(self, entities: Sequence[EndEntity]) -> None:
        """Say which of the first end entities has names that the CA is going to refuse."""
        try:
            certifier = Certifier(self._config)
        except ConfigError:
            return  # whoever starts the CA says what is wrong
        for entity in entities[:_MOST_LOOKED_AT]:
            unasked = certifier.unasked[:1] if entity.vendor else ()
            profiles = (entity.profile,) if entity.profile else unasked
            why = certifier.refusal(entity.subject, entity.names, profiles)
            if why:
                others = ", and those of others perhaps" if len(entities) > 1 else ""
                say(
                    f"warning: the CA is going to refuse the names of {entity.name}{others}: {why}. Register "
                    "other names; or change its profile, ca.domains or ca.organisations."
                )
                return


def _with_window(entity: EndEntity, config: CAConfig) -> EndEntity:
    if config.reenroll != "window":
        return entity
    return replace(entity, enroll_until=now() + timedelta(hours=config.reenroll_window_hours))


@entity_app.command("list")
def entity_list(
    pattern: Annotated[
        str, typer.Option(help="Of name, subject or identity; * and ? stand for any characters.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    after: Annotated[str, typer.Option(help="Only names behind this one.")] = "",
    config: ConfigOption = CONFIG,
) -> None:
    """List end entities in the order of their names."""
    found = with_ledger(
        config,
        lambda ledger, _: ledger.registry.entities(after=after, limit=limit + 1, pattern=pattern),
    )
    show_table(
        ("Name", "Status", "Subject", "Profile", "Vendor", "Identity", "Made by"),
        [
            (
                entity.name,
                entity.status,
                entity.subject,
                entity.profile,
                entity.vendor,
                entity.identity,
                entity.created_by,
            )
            for entity in found[:limit]
        ],
    )
    if len(found) > limit:
        note(f"There are more: --after {found[limit - 1].name!r}")


@entity_app.command("show")
def entity_show(name: EntityName, config: ConfigOption = CONFIG) -> None:
    """Show an end entity and its newest certificates."""

    async def show(ledger: Ledger, _: CAConfig) -> None:
        entity = await ledger.registry.entity(name)
        if entity is None:
            raise ConfigError.of(
                f"entity {name}",
                "is not registered",
                "`ra-gateway ca entity list` shows all there are",
            )
        show_facts(
            (
                ("Name", entity.name),
                ("Status", entity.status),
                ("Subject", entity.subject),
                ("Names", ", ".join(entity.names)),
                ("Profile", entity.profile),
                ("Vendor", entity.vendor),
                ("Identity", entity.identity),
                ("Made", f"{day(entity.created_at)} by {entity.created_by}"),
                ("Open until", day(entity.enroll_until)),
            )
        )
        await show_certificates(ledger, entity=name, limit=20)

    with_ledger(config, show)


async def show_certificates(
    ledger: Ledger, *, limit: int, entity: str = "", status: CertificateStatus | None = None
) -> None:
    """Print the newest certificates as a table."""
    found = await newest(ledger, now(), limit=limit, entity=entity, status=status)
    show_table(
        ("Serial", "Status", "End entity", "Profile", "Not after", "Revoked", "Reason"),
        [
            (
                item.serial,
                item.status,
                item.entity,
                item.profile,
                day(item.not_after),
                day(item.revoked_at),
                "" if item.reason is None else item.reason.name,
            )
            for item in found
        ],
    )


@entity_app.command("block")
def entity_block(name: EntityName, config: ConfigOption = CONFIG) -> None:
    """Let an end entity get and renew nothing; its certificates stay valid."""
    _set_status(config, name, EntityStatus.blocked)
    say(f"Blocked {name}. Its certificates stay valid: `ra-gateway ca revoke` ends them.")


@entity_app.command("unblock")
def entity_unblock(name: EntityName, config: ConfigOption = CONFIG) -> None:
    """Let a blocked end entity get certificates again."""
    _set_status(config, name, EntityStatus.active)
    say(f"{name} is active.")


def _set_status(config: Path, name: str, status: EntityStatus) -> None:
    with_ledger(
        config, lambda ledger, _: ledger.registry.set_entity_status(name, status, actor(), now())
    )


@entity_app.command("open")
def entity_open(
    name: EntityName,
    hours: Annotated[
        int | None, typer.Option(min=0, help="For how long; else ca.reenroll_window_hours.")
    ] = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Let an end entity enrol again, as after a factory reset (ca.reenroll = "window")."""

    async def open_(ledger: Ledger, settings: CAConfig) -> tuple[datetime, str]:
        window = timedelta(hours=settings.reenroll_window_hours if hours is None else hours)
        until = now() + window
        await ledger.registry.open_window(name, until if window else None, actor(), now())
        return until, settings.reenroll

    until, policy = with_ledger(config, open_)
    say(f"Closed for {name}." if hours == 0 else f"Open for {name} until {day(until)} UTC.")
    if policy != "window":
        say(f'It has no effect: the policy is ca.reenroll = "{policy}".')


@entity_app.command("delete")
def entity_delete(name: EntityName, config: ConfigOption = CONFIG) -> None:
    """Delete an end entity that holds no valid certificate."""
    with_ledger(config, lambda ledger, _: ledger.registry.delete_entity(name, actor(), now()))
    say(f"Deleted {name}.")


@entity_app.command("import")
def entity_import(
    file: Annotated[
        Path, typer.Argument(help=f"CSV, UTF-8, with a header out of {','.join(CSV_COLUMNS)}.")
    ],
    config: ConfigOption = CONFIG,
) -> None:
    """Register all end entities of a CSV file, or none if a row is wrong."""
    known = _Known(config)
    lines, entities = _read_csv(file, known)

    async def add(ledger: Ledger, settings: CAConfig) -> int:
        made = [_with_window(entity, settings) for entity in entities]
        with progress("Checking") as step:
            return await ledger.registry.import_entities(
                made,
                actor(),
                now(),
                lines=lines,
                progress=lambda done: step(done, len(made)),
            )

    count = with_ledger(config, add)
    say(f"Registered {count} end {'entity' if count == 1 else 'entities'}.")
    known.warn(entities)


def _read_csv(path: Path, known: _Known) -> tuple[list[int], list[EndEntity]]:
    problems: list[Problem] = []
    lines, entities = [], []
    for row in read_rows(path, CSV_COLUMNS[:2], CSV_COLUMNS[2:]):
        if isinstance(row, Problem):
            problems.append(row)
            continue
        entity = _entity_of(row.values)
        problems += known.problems(f"line {row.line}", entity)
        lines.append(row.line)
        entities.append(entity)
    refuse(problems)
    return lines, entities


def _entity_of(row: dict[str, str]) -> EndEntity:
    return EndEntity(
        name=row["name"],
        subject=row["subject"],
        names=split_general_names(row.get("names", "")),
        profile=row.get("profile", ""),
        vendor=row.get("vendor", ""),
        identity=row.get("identity", ""),
        created_by=OPERATOR,
    )
