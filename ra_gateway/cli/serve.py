"""`ra-gateway init`, `serve` and `check-config`: from nothing to a gateway that serves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ra_gateway.cli.output import (
    CONFIG,
    Checked,
    ConfigOption,
    JSONOption,
    KeyKindOption,
    NamedSubjectsOption,
    PortOption,
    called,
    named_subjects,
    reloads_put_off,
    say,
    serve_until_signalled,
    show_check,
)
from ra_gateway.cli.runnable import give
from ra_gateway.config.source import Source
from ra_gateway.errors import ConfigError

if TYPE_CHECKING:
    from ra_gateway.app.running import Service
    from ra_gateway.config.tables import GatewayConfig


def init(
    directory: Annotated[Path, typer.Argument(help="Where the files go; it must be new or empty.")],
    organisation: Annotated[str, typer.Option(help="O of every subject.")] = "Example Operator",
    vendor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=ROOT.pem[,SUB.pem]",
            help="A manufacturer whose base stations may enrol; may be repeated.",
        ),
    ] = None,
    domain: Annotated[
        str, typer.Option(help="DNS domain of the base stations' names.")
    ] = "ran.example.net",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
    status_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port of the CA's CRLs; by default that after the next."
        ),
    ] = None,
    key_kind: KeyKindOption = "p256",
    subject: NamedSubjectsOption = None,
) -> None:
    """Write a configuration with CA and RA material: a gateway ready to serve."""
    from ra_gateway.clocks import now
    from ra_gateway.cmp.hosts import is_fqdn
    from ra_gateway.config.reading import load

    vendors = _vendors(vendor or ())
    if not is_fqdn(domain):
        raise typer.BadParameter(f"{domain!r} is no DNS domain like ran.example.net")
    from ra_gateway.cli.setup import require_empty, usable_port, write_setup  # the extra `ca`

    require_empty(directory)
    path = write_setup(
        directory,
        organisation=organisation,
        vendors=vendors,
        domain=domain,
        now=now(),
        port=port,
        # Beside its own port; where that is any free one, another such.
        status_port=status_port or (port + 2 if 0 < port < 65534 else usable_port(0)),
        subjects=named_subjects(subject, ("root", "issuing", "cmp", "ocsp", "ra")),
        key_kind=key_kind,
    )
    load(path)
    say(f"Wrote {path} and the material it names.")
    if vendors:
        say(
            f"A base station may have the name HOST.{domain} or SERIAL.{domain}, where its vendor certificate has "
            "an FQDN that begins with HOST, or SERIAL as serialNumber or CN: see [vendors.NAME.identity]."
        )
    else:
        say("No vendor is trusted yet: add one to the configuration, as it explains at its end.")
    say(
        f"Move {directory}/ca/root.key offline now, in two copies: the service does not need it, and who has it can "
        "make any certificate."
    )
    say(f"Next: {called()} serve --config {path}")


def _vendors(texts: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the paths of root and sub-CA ("" for none) by vendor, of files that can be used now."""
    from ra_gateway.app.trust import anchors
    from ra_gateway.clocks import now
    from ra_gateway.keys import load_certificates

    vendors: dict[str, tuple[str, str]] = {}
    for text in texts:
        name, separator, files = text.partition("=")
        root, _, sub = files.partition(",")
        if not separator or not name or not root:
            raise typer.BadParameter(f"{text!r} is not of the form NAME=ROOT.pem[,SUB.pem]")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise typer.BadParameter(f"{name!r} may only have letters, digits, - and _")
        vendors[name] = (str(Path(root).resolve()), str(Path(sub).resolve()) if sub else "")
        for file in filter(None, vendors[name]):
            load_certificates(Path(file), f"--vendor {name}")
        for anchor in anchors([Path(vendors[name][0])], f"--vendor {name}"):
            if not anchor.valid_at(now()):
                raise ConfigError.of(
                    f"--vendor {name}",
                    f"{anchor.subject} is valid from {anchor.not_before:%Y-%m-%d} to {anchor.not_after:%Y-%m-%d}",
                    "Ask the vendor for the root that its base stations have now",
                )
    return vendors


@reloads_put_off()
def serve(
    port: PortOption = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Processes that serve, in place of the configuration's number."
        ),
    ] = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Serve base stations until SIGTERM or Ctrl-C; what was accepted is answered first."""
    from ra_gateway.config.reading import load

    if port is not None:
        config = config.with_setting("--port", "server.listen_port", port)
    if workers is not None:
        config = config.with_setting("--workers", "server.workers", workers)

    def make(settings: GatewayConfig, **options: Any) -> Service:
        # Each is imported where it serves: the parent of workers needs little of what they do.
        if settings.server.workers == 1:
            from ra_gateway.app.application import Application

            return Application(settings, **options)
        from ra_gateway.app.workers import Workers

        return Workers(config, load)

    serve_until_signalled(make, load, config, None, "server.listen_port", _warnings)


def _warnings(source: Source, settings: GatewayConfig) -> list[str]:
    """Return what works and is less safe than it looks, in sentences."""
    from ra_gateway.app.warnings import of_file, warnings
    from ra_gateway.clocks import now

    found = [str(problem) for problem in (*of_file(source.path), *warnings(settings, now()))]
    if settings.ca is not None:
        from ra_gateway.app.doctor.ledger import ledger_warnings  # the extra `ca`

        found += ledger_warnings(settings.ca)
    return found


def check_config(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="Configuration, as with --config.")] = None,
    as_json: JSONOption = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Read the configuration and every file it names, and say everything that is wrong."""
    if file is not None:
        if context.params.get("config") is not None:
            raise typer.BadParameter("the configuration is named twice: FILE, and with --config")
        config = replace(config, path=file)
        give(file, context.params.get("settings") or ())
    show_check(str(config), lambda: _checked(config), as_json=as_json)


def _checked(source: Source) -> Checked:
    from ra_gateway.app.application import Application
    from ra_gateway.app.running import check
    from ra_gateway.app.unused import of_inventory
    from ra_gateway.app.upstreams import sent_to_cas
    from ra_gateway.config.reading import is_of_ca_alone, load

    if is_of_ca_alone(source):
        from ra_gateway.cli.ca import checked_ca  # the extra `ca`

        return checked_ca(source)
    settings = load(source)
    check(Application, settings)
    notes = sent_to_cas(settings)
    if not settings.vendors:
        notes += ["No vendor is trusted, so no base station can enrol: add a table [vendors.NAME]."]
    return Checked(
        f"good. {len(settings.endpoints)} endpoint(s), {len(settings.vendors)} vendor(s), "
        f"{len(settings.upstreams)} upstream(s), store {settings.store.kind}.",
        [*_warnings(source, settings), *map(str, of_inventory(settings))],
        notes,
    )
