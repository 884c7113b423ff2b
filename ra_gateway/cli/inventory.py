"""`ra-gateway inventory`: the operator's list of devices, looked at, taken in and given out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ra_gateway.cli.ledger_context import actor
from ra_gateway.cli.output import (
    CONFIG,
    Checked,
    Commands,
    ConfigOption,
    JSONOption,
    fail,
    note,
    progress,
    run,
    say,
    show_check,
)

inventory_app = Commands(
    name="inventory", help="The operator's list of devices.", no_args_is_help=True
)

_CSV = "CSV, UTF-8, with the header domain,identity,subject,san,enabled."


@inventory_app.command("check", examples=("ra-gateway inventory check site.csv",))
def inventory_check(
    file: Annotated[
        Path | None, typer.Argument(help=f"{_CSV} By default what the configuration names.")
    ] = None,
    as_json: JSONOption = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Read an inventory as the gateway would, and say everything that is wrong; nothing is changed."""
    from ra_gateway.app import inventory
    from ra_gateway.config.reading import load

    settings = load(config, check_files=False)

    def look() -> Checked:
        with progress("Reading") as step:
            devices = (
                inventory.devices_of(file, step) if file else run(inventory.listed(settings, step))
            )
        warnings = [str(item) for item in inventory.warnings(devices, settings)]
        return Checked(f"{inventory.summary(devices)}.", warnings)

    checked = show_check(str(file or inventory.name_of(settings)), look, as_json=as_json)
    if checked.warnings:
        fail(["Some of it helps nobody; see the warnings."], 1)


@inventory_app.command(
    "import",
    examples=(
        "ra-gateway inventory import site.csv --dry-run",
        "ra-gateway inventory import site.csv",
    ),
)
def inventory_import(
    file: Annotated[Path, typer.Argument(help=_CSV)],
    replace: Annotated[
        bool, typer.Option("--replace", help="Take out what the file does not list.")
    ] = False,
    despite_warnings: Annotated[
        bool,
        typer.Option("--despite-warnings", help="Take in also what helps nobody as it is now."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Take the devices of a file into the gateway's inventory, all of them or none; a running gateway goes by it."""
    from ra_gateway.app import inventory
    from ra_gateway.app.audit_acts import record_act
    from ra_gateway.config.reading import load

    settings = load(config, check_files=False)
    with progress("Reading") as step:
        devices = inventory.devices_of(file, step)
    if not dry_run:
        facts = {"devices": str(len(devices)), "replace": str(replace).lower()}
        record_act(settings.audit, actor(), "inventory.import", str(file), facts)
    with progress("Writing") as step:
        done = run(
            inventory.take_in(
                settings, devices, replace=replace, despite_warnings=despite_warnings,
                dry_run=dry_run, progress=step,
            )
        )  # fmt: skip
    for warning in done.warnings:
        note(f"warning: {warning}")
    would = "Would have" if dry_run else "Has"
    say(
        f"{inventory.name_of(settings)}: {done.added} added, {done.changed} changed, {done.removed} removed, "
        f"{done.same} as before. {would} {done.devices} devices{'' if dry_run else ' now'}."
    )


@inventory_app.command("export", examples=("ra-gateway inventory export --out devices.csv",))
def inventory_export(
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, which must be new; by default standard output."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A list of objects in place of CSV, for programs.")
    ] = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Write the gateway's inventory as CSV, sorted by vendor and identity."""
    from ra_gateway.app import inventory
    from ra_gateway.config.reading import load
    from ra_gateway.files import write_new

    settings = load(config, check_files=False)
    with progress("Reading") as step:
        devices = run(inventory.listed(settings, step))
    octets = inventory.as_json(devices) if as_json else inventory.as_csv(devices)
    if out is None:
        typer.echo(octets, nl=False)
        return
    write_new(out, octets, mode=0o644)
    say(f"{out}: {inventory.summary(devices)}.")
