"""The command `ra-gateway`: all commands, in the order in which help lists them.

Exit codes: 0 done; 1 the other side refused or something failed; 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ra_gateway.cli.approvals import approvals_app
from ra_gateway.cli.audit import audit_app
from ra_gateway.cli.ca import ca_app
from ra_gateway.cli.commands import Program
from ra_gateway.cli.device import enroll, renew
from ra_gateway.cli.doctor import doctor
from ra_gateway.cli.inventory import inventory_app
from ra_gateway.cli.message import replay, show
from ra_gateway.cli.output import Commands, out, run, say
from ra_gateway.cli.reload import reload
from ra_gateway.cli.revocation import revocation
from ra_gateway.cli.samples import samples
from ra_gateway.cli.serve import check_config, init, serve
from ra_gateway.cli.simulate import simulate
from ra_gateway.cli.why import why

app = Commands(
    name="ra-gateway",
    cls=Program,
    help="RA-mode gateway between base stations and a CA (CMPv2, 3GPP TS 33.310).",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from ra_gateway import __version__

        say(f"ra-gateway {__version__}")
        raise typer.Exit


app.command(
    examples=(
        "ra-gateway init site --vendor acme=acme-root.pem,acme-sub.pem --domain ran.example.net",
    )
)(init)
app.command(
    examples=(
        "ra-gateway serve --config site/gateway.toml",
        "RA_GATEWAY__LOG__LEVEL=debug ra-gateway serve --port 8081",
    )
)(serve)
app.command("check-config", examples=("ra-gateway check-config site/gateway.toml",))(check_config)
app.command(examples=("ra-gateway reload --config site/gateway.toml",))(reload)
app.command(
    examples=(
        "cd $( ra-gateway samples ) && ls deploy config docs",
        "ra-gateway show $( ra-gateway samples )/tests/vectors/ir.der",
    )
)(samples)
app.command(
    examples=(
        "ra-gateway doctor --quiet",
        'ra-gateway doctor --explain "no path from CN=enb-1 to an anchor of acme"',
    )
)(doctor)
app.command(
    examples=(
        "ra-gateway why SN-000001",
        "journalctl -u ra-gateway -o cat | ra-gateway why 5b1f03c9 --log -",
    )
)(why)
app.command(examples=("ra-gateway revocation --certificate enb-1.pem",))(revocation)
app.add_typer(approvals_app)
app.add_typer(audit_app)
app.add_typer(inventory_app)
app.add_typer(ca_app)
app.command(
    examples=(
        "ra-gateway enroll --url http://127.0.0.1:8080/.well-known/cmp \\\n"
        "      --cert device.pem --key device.key --chain sub.pem \\\n"
        "      --subject CN=enb-7.ran.example.net --out enb-7",
    )
)(enroll)
app.command(
    examples=(
        "ra-gateway renew --url http://127.0.0.1:8080/.well-known/cmp \\\n"
        "      --cert enb-7/cert.pem --key enb-7/key.pem --trusted enb-7/root.pem --out enb-7-next",
    )
)(renew)
app.command(
    examples=(
        "ra-gateway simulate --url http://127.0.0.1:8080/.well-known/cmp \\\n"
        "      --vendor-cert sub.pem --vendor-key sub.key \\\n"
        "      --subject CN={name}.ran.example.net --count 50 --renewals 1",
    )
)(simulate)


app.command(
    examples=(
        "ra-gateway show ir.der",
        "ra-gateway show ir.der --config site/gateway.toml",
        "tcpdump -x -r capture.pcap | ra-gateway show - --json",
    )
)(show)
app.command(examples=("ra-gateway replay ir.der --url http://127.0.0.1:8080/.well-known/cmp",))(
    replay
)


@app.command(examples=("ra-gateway demo --keep --dir /tmp/demo --port 8080",))
def demo(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Where the files go; by default a new temporary directory."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for a free one.")] = 0,
    keep: Annotated[bool, typer.Option(help="Go on serving until Ctrl-C.")] = False,
) -> None:
    """Watch a base station enrol and renew through a gateway, all on this machine."""
    import tempfile

    from ra_gateway import logs
    from ra_gateway.cli.demo import demonstrate  # the extra `ca`

    where = directory or Path(tempfile.mkdtemp(prefix="ra-gateway-demo-"))
    logs.configure("console", "warning")
    run(demonstrate(out, where.resolve(), port=port, keep=keep))


def main() -> None:
    """Run the command line."""
    app()
