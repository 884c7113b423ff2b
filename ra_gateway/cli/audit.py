"""`ra-gateway audit`: the audit trail, verified, searched and given out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

import typer

from ra_gateway.cli.output import (
    CONFIG,
    Commands,
    ConfigOption,
    JSONOption,
    fail,
    note,
    print_json,
    progress,
    say,
    show_list,
)
from ra_gateway.errors import ConfigError

if TYPE_CHECKING:
    from ra_gateway.audit.searching import Found, Query

audit_app = Commands(
    name="audit",
    help="The audit trail: the gateway's, and that of the bundled CA's ledger.",
    no_args_is_help=True,
)

_COLUMNS: Final = {
    "at": "Time (UTC)",
    "trail": "Trail",
    "number": "Number",
    "actor": "Who",
    "action": "What",
    "subject": "Of whom",
    "facts": "Facts",
}

_SHOWN: Final = ("body_type", "outcome", "rule", "detail", "upstream", "serial_number", "reason")
"""Facts that a table shows, as far as there are; all are in JSON."""

_CSV: Final = (
    *("trail", "number", "at", "actor", "action", "subject"),
    *("transaction_id", "signer", "serial_number", "domain", "rule", "outcome", "detail", "hash"),
)


class Trail(StrEnum):
    """Which one."""

    gateway = "gateway"
    ca = "ca"


TrailOption = Annotated[Trail | None, typer.Option(help="One of them; by default all there are.")]
TransactionOption = Annotated[str, typer.Option(metavar="HEX", help="transactionID.")]
DeviceOption = Annotated[
    str, typer.Option(metavar="NAME", help="Subject of a signer or a certificate, or NAME*.")
]
SerialOption = Annotated[
    str, typer.Option(metavar="SERIAL", help="Serial number of a certificate, hexadecimal.")
]
DomainOption = Annotated[str, typer.Option(metavar="NAME", help="Trust domain of the device.")]
RuleOption = Annotated[str, typer.Option(metavar="RULE", help="Rule that refused, like R26.")]
OutcomeOption = Annotated[
    str, typer.Option(metavar="OUTCOME", help="How a message was answered, like refused.")
]
ActorOption = Annotated[str, typer.Option(metavar="NAME", help="Who did it, like operator:ann.")]
ActionOption = Annotated[str, typer.Option(metavar="ACTION", help="What was done, like approve.")]
SinceOption = Annotated[
    str, typer.Option(metavar="TIME", help="From then on, UTC: 2026-12-01 or 2026-12-01T13:30.")
]
UntilOption = Annotated[str, typer.Option(metavar="TIME", help="Before that, UTC.")]


@audit_app.command(
    "verify",
    examples=("ra-gateway audit verify",),
)
def audit_verify(
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NUMBER:HASH",
            help="Where the gateway's trail ended once, as it was noted elsewhere; may be repeated.",
        ),
    ] = None,
    trail: TrailOption = None,
    as_json: JSONOption = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Check that no record was changed, left out, exchanged or cut off; say where each trail ends."""
    from ra_gateway.app.audit_reading import trails

    noted = dict(map(_noted, head or ()))
    with trails(config, trail or "") as opened, progress("Verifying") as step:
        found = opened.verify(noted, step)
    if as_json:
        print_json(
            {
                name: {
                    "good": not item.findings,
                    "findings": item.findings,
                    "first": item.first,
                    "last": item.last,
                    "head": item.head.hex(),
                    "heads_not_compared": item.uncompared,
                }
                for name, item in found.items()
            }
        )
        raise typer.Exit(1 if any(item.findings for item in found.values()) else 0)
    for name, item in found.items():
        if item.last and not item.findings:
            say(f"{name}: records {item.first} to {item.last} are whole.")
            say(f"Note it elsewhere: --head {item.last}:{item.head.hex()}")
        elif not item.findings:
            say(f"{name}: no record yet.")
        for number in item.uncompared:
            note(f"{name}: record {number} has left with the old ones, its head was not compared.")
    findings = [f"{name}: {what}." for name, item in found.items() for what in item.findings]
    if findings:
        fail([*findings, "Find out who wrote to the database, and compare with a backup."], 1)


def _noted(text: str) -> tuple[int, bytes]:
    number, _, hash_ = text.partition(":")
    try:
        if len(hash_) != 64:
            raise ValueError
        return int(number), bytes.fromhex(hash_)
    except ValueError:
        raise ConfigError.of(
            f"--head {text[:80]!r}", "is no head", "Write it as `audit verify` does: NUMBER:HASH"
        ) from None


@audit_app.command(
    "search",
    examples=(
        'ra-gateway audit search --device "CN=SN-000001*"',
        "ra-gateway audit search --transaction 5b1f03c9 --json",
        "ra-gateway audit search --outcome refused --since 2026-12-01",
    ),
)
def audit_search(
    transaction: TransactionOption = "",
    device: DeviceOption = "",
    serial: SerialOption = "",
    domain: DomainOption = "",
    rule: RuleOption = "",
    outcome: OutcomeOption = "",
    actor: ActorOption = "",
    action: ActionOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most; the newest.")] = 100,
    trail: TrailOption = None,
    as_json: JSONOption = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Find records; what is given has to fit all together. They come in the order of time."""
    from ra_gateway.app.audit_reading import trails

    query = _query(transaction, device, serial, domain, rule, outcome, actor, action, since, until)
    with trails(config, trail or "") as opened:
        found = opened.search(query, limit)
    rows = [_values(item) | ({} if as_json else {"facts": _facts(item)}) for item in found]
    show_list(_COLUMNS, rows, as_json=as_json)
    if len(found) == limit and not as_json:
        note(f"There may be more than these {limit}; see --limit, --since and --until.")


@audit_app.command(
    "export",
    examples=(
        "ra-gateway audit export --since 2026-11-01 --until 2026-12-01 --out november.csv",
        "ra-gateway audit export --json --out audit.jsonl",
    ),
)
def audit_export(
    since: SinceOption = "",
    until: UntilOption = "",
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, which must be new; by default standard output."),
    ] = None,
    trail: TrailOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="An object a line in place of CSV, for programs.")
    ] = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Write all records of a time in its order, with their hashes, as CSV."""
    import sys

    from ra_gateway.app.audit_reading import trails
    from ra_gateway.files import open_new

    query = _query(since=since, until=until)
    with trails(config, trail or "") as opened:
        found = opened.export(query)
        if out is None:
            _write(sys.stdout, found, as_json=as_json)
            return
        with open(open_new(out), "w", encoding="utf-8", newline="") as stream:
            count = _write(stream, found, as_json=as_json)
    say(f"{out}: {count} records.")


def _write(stream: IO[str], found: Iterable[Found], *, as_json: bool) -> int:
    import csv
    import json

    count = 0
    if not as_json:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_CSV)
    for item in found:
        values = _values(item)
        if as_json:
            stream.write(json.dumps(values) + "\n")
        else:
            detail = values["detail"]
            values |= {"detail": json.dumps(detail)}
            writer.writerow(
                _no_formula(str(values.get(name, detail.get(name, "")))) for name in _CSV
            )
        count += 1
    return count


def _no_formula(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text


def _query(
    transaction: str = "",
    device: str = "",
    serial: str = "",
    domain: str = "",
    rule: str = "",
    outcome: str = "",
    actor: str = "",
    action: str = "",
    since: str = "",
    until: str = "",
) -> Query:
    from ra_gateway.audit.searching import Query

    return Query(
        transaction.lower(),
        device,
        serial,
        domain,
        rule,
        outcome,
        actor,
        action,
        _moment(since, "--since"),
        _moment(until, "--until"),
    )


def _moment(text: str, option: str) -> int | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError.of(
            option, f"{text[:40]!r} is no time", "Write it like 2026-12-01 or 2026-12-01T13:30"
        ) from None
    aware = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)


def _values(item: Found) -> dict[str, Any]:
    return {
        "trail": item.trail,
        "number": item.number,
        "at": datetime.fromtimestamp(item.at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        + "Z",
        "actor": item.actor,
        "action": item.action,
        "subject": item.subject,
        "detail": dict(item.detail),
        "hash": item.hash.hex(),
    }


def _facts(item: Found) -> str:
    return " ".join(_shown(item))


def _shown(item: Found) -> Iterator[str]:
    for name in _SHOWN:
        if value := item.detail.get(name):
            yield f"{name}={value}"
