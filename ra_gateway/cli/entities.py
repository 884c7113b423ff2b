"""`ra-gateway ca entity`: who may hold certificates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ra_gateway.ca.records import EndEntity, EntityStatus
from ra_gateway.cli.ledger_context import OPERATOR, actor, with_ledger
from ra_gateway.cli.output import (
    CONFIG,
    Commands,
    ConfigOption,
    JSONOption,
    day,
    note,
    progress,
    say,
    show_facts,
    show_list,
)
from ra_gateway.config.source import Source
from ra_gateway.errors import ConfigError, Problem

if TYPE_CHECKING:
    from ra_gateway.ca.ledger.ledger import Ledger
    from ra_gateway.ca.ledger.listing import Listed
    from ra_gateway.config.ca_tables import CAConfig

CSV_COLUMNS: Final = ("name", "subject", "names", "profile", "vendor", "identity")

_MOST_LOOKED_AT: Final = 100
"""Imported end entities whose names are tried: names that are wrong are so in most of them."""

entity_app = Commands(
    name="entity", help="End entities: who may hold certificates.", no_args_is_help=True
)

EntityName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the end entity.")]


@entity_app.command(
    "add",
    examples=(
        "ra-gateway ca entity add enb1 --subject CN=enb1.ran.example.net --san dns:enb1.ran.example.net",
    ),
)
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
    from ra_gateway.clocks import now

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

    def __init__(self, source: Source) -> None:
        from ra_gateway.app.profiles import ca_profiles, grantable
        from ra_gateway.config.reading import load_ca

        config = load_ca(source)
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
        from ra_gateway.app.name_warnings import Certifier

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
    from ra_gateway.clocks import now

    if config.reenroll != "window":
        return entity
    return replace(entity, enroll_until=now() + timedelta(hours=config.reenroll_window_hours))


@entity_app.command("list", examples=("ra-gateway ca entity list --pattern 'CN=enb-*' --json",))
def entity_list(
    pattern: Annotated[
        str, typer.Option(help="Of name, subject or identity; * and ? stand for any characters.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    after: Annotated[str, typer.Option(help="Only names behind this one.")] = "",
    as_json: JSONOption = False,
    config: ConfigOption = CONFIG,
) -> None:
    """List end entities in the order of their names."""

    async def find(ledger: Ledger, _: CAConfig) -> list[EndEntity]:
        some = await ledger.registry.entities(after=after, limit=limit + 1, pattern=pattern)
        return await _with_devices(ledger, some)

    found = with_ledger(config, find)
    columns = {name: _FACTS[name] for name in _COLUMNS}
    show_list(columns, map(entity_values, found[:limit]), as_json=as_json)
    if len(found) > limit:
        note(f"There are more: --after {found[limit - 1].name!r}")


@entity_app.command("show", examples=("ra-gateway ca entity show enb1",))
def entity_show(
    name: EntityName, as_json: JSONOption = False, config: ConfigOption = CONFIG
) -> None:
    """Show an end entity and its newest certificates."""
    from ra_gateway.ca.ledger.listing import newest
    from ra_gateway.clocks import now

    async def find(ledger: Ledger, _: CAConfig) -> tuple[EndEntity | None, list[Listed]]:
        entity = await ledger.registry.entity(name)
        if entity is not None:
            (entity,) = await _with_devices(ledger, [entity])
        return entity, await newest(ledger, now(), limit=20, entity=name)

    entity, found = with_ledger(config, find)
    if entity is None:
        raise ConfigError.of(
            f"entity {name}", "is not registered", "`ra-gateway ca entity list` shows all there are"
        )
    values = entity_values(entity)
    if as_json:
        values["certificates"] = list(map(certificate_values, found))
    show_facts(_FACTS, values, as_json=as_json)
    if not as_json:
        show_certificates(found, as_json=False)


async def _with_devices(ledger: Ledger, entities: Sequence[EndEntity]) -> list[EndEntity]:
    """Return end entities with vendor and identity: as registered, else of who had the newest certificate (RA mode)."""
    from ra_gateway.ca.ledger.history import devices

    found = await devices(ledger, [item.name for item in entities if not item.vendor])
    return [
        replace(item, vendor=found[item.name][0], identity=found[item.name][1])
        if item.name in found
        else item
        for item in entities
    ]


_FACTS: Final = {
    "name": "Name",
    "status": "Status",
    "subject": "Subject",
    "names": "Names",
    "profile": "Profile",
    "vendor": "Vendor",
    "identity": "Identity",
    "created_at": "Made",
    "created_by": "Made by",
    "enroll_until": "Open until",
}
_COLUMNS: Final = ("name", "status", "subject", "profile", "vendor", "identity", "created_by")
_CERTIFICATE_COLUMNS: Final = {
    "serial": "Serial",
    "status": "Status",
    "entity": "End entity",
    "profile": "Profile",
    "not_after": "Not after",
    "revoked_at": "Revoked",
    "reason": "Reason",
}


def entity_values(entity: EndEntity) -> dict[str, Any]:
    """Return an end entity as `show_list` takes it."""
    from ra_gateway.cmp.names import readable_text

    values = {name: getattr(entity, name) for name in _FACTS}
    names = tuple(map(readable_text, entity.names))
    return values | {"subject": readable_text(entity.subject), "names": names}


def certificate_values(item: Listed) -> dict[str, Any]:
    """Return a certificate of a list as `show_list` takes it."""
    return asdict(item)


def show_certificates(found: Iterable[Listed], *, as_json: bool) -> None:
    """Print certificates."""
    show_list(_CERTIFICATE_COLUMNS, map(certificate_values, found), as_json=as_json)


@entity_app.command("block", examples=("ra-gateway ca entity block enb1",))
def entity_block(name: EntityName, config: ConfigOption = CONFIG) -> None:
    """Let an end entity get and renew nothing; its certificates stay valid."""
    _set_status(config, name, EntityStatus.blocked)
    say(f"Blocked {name}. Its certificates stay valid: `ra-gateway ca revoke` ends them.")


@entity_app.command("unblock", examples=("ra-gateway ca entity unblock enb1",))
def entity_unblock(name: EntityName, config: ConfigOption = CONFIG) -> None:
    """Let a blocked end entity get certificates again."""
    _set_status(config, name, EntityStatus.active)
    say(f"{name} is active.")


def _set_status(config: Source, name: str, status: EntityStatus) -> None:
    from ra_gateway.clocks import now

    with_ledger(
        config, lambda ledger, _: ledger.registry.set_entity_status(name, status, actor(), now())
    )


@entity_app.command("open", examples=("ra-gateway ca entity open enb1 --hours 2",))
def entity_open(
    name: EntityName,
    hours: Annotated[
        int | None, typer.Option(min=0, help="For how long; else ca.reenroll_window_hours.")
    ] = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Let an end entity enrol again, as after a factory reset (ca.reenroll = "window")."""

    from ra_gateway.clocks import now

    async def open_(ledger: Ledger, settings: CAConfig) -> tuple[datetime, str]:
        window = timedelta(hours=settings.reenroll_window_hours if hours is None else hours)
        until = now() + window
        await ledger.registry.open_window(name, until if window else None, actor(), now())
        return until, settings.reenroll

    until, policy = with_ledger(config, open_)
    say(f"Closed for {name}." if hours == 0 else f"Open for {name} until {day(until)} UTC.")
    if policy != "window":
        say(f'It has no effect: the policy is ca.reenroll = "{policy}".')


@entity_app.command("delete", examples=("ra-gateway ca entity delete enb1",))
def entity_delete(name: EntityName, config: ConfigOption = CONFIG) -> None:
    """Delete an end entity that holds no valid certificate."""
    from ra_gateway.clocks import now

    with_ledger(config, lambda ledger, _: ledger.registry.delete_entity(name, actor(), now()))
    say(f"Deleted {name}.")


@entity_app.command("import", examples=("ra-gateway ca entity import stations.csv",))
def entity_import(
    file: Annotated[
        Path, typer.Argument(help=f"CSV, UTF-8, with a header out of {','.join(CSV_COLUMNS)}.")
    ],
    config: ConfigOption = CONFIG,
) -> None:
    """Register all end entities of a CSV file, or none if a row is wrong."""
    from ra_gateway.clocks import now

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
    from ra_gateway.stores.rows import read_rows, refuse

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
    from ra_gateway.cmp.names import split_general_names

    return EndEntity(
        name=row["name"],
        subject=row["subject"],
        names=split_general_names(row.get("names", "")),
        profile=row.get("profile", ""),
        vendor=row.get("vendor", ""),
        identity=row.get("identity", ""),
        created_by=OPERATOR,
    )
