"""The demonstration: a vendor, an operator, a gateway and a base station, in one process and by itself."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ra_gateway.app.application import Application
from ra_gateway.app.running import catch_signals
from ra_gateway.cli.setup import require_empty, usable_port, write_setup
from ra_gateway.clocks import now
from ra_gateway.cmp.codes import BodyType
from ra_gateway.config.reading import load
from ra_gateway.device.client import open_session, run
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.factory import Vendor
from ra_gateway.device.values import DeviceIdentity, Direction, Done, RequestOptions, TracedMessage
from ra_gateway.errors import ConfigError, printable
from ra_gateway.events import Component, Fact, RequestHandled
from ra_gateway.files import write_new
from ra_gateway.keys import KEY_KINDS, write_certificates, write_private_key
from ra_gateway.logs import LogSink

HOST = "enb-0001"
SUBJECT = "CN=enb-0001.ran.example.net,O=Example Operator"
SAN = ("dns:enb-0001.ran.example.net",)


class _Events:
    """Collects what the gateway says of each message, for the table, until it is to be logged; logs the rest."""

    def __init__(self) -> None:
        self.seen: list[RequestHandled] = []
        self.logs_all = False
        self._log = LogSink()

    def __call__(self, event: Fact) -> None:
        match event:
            case RequestHandled(by=Component.gateway) if not self.logs_all:
                self.seen.append(event)
            case _:
                self._log(event)


async def demonstrate(console: Console, directory: Path, *, port: int, keep: bool) -> None:
    """Enrol and renew one base station and print the dialogue.

    Args:
        directory: Where the files go; what is interface in it is in the README.
        port: To listen on, 0 for a free one.
        keep: Serve on until a signal comes.

    Raises:
        ConfigError: The directory is in use.
        CannotListen: The port is.
        EnrollmentFailed: The demonstration did not succeed.
    """
    if (directory / "vendor").exists():
        raise ConfigError.of(
            str(directory),
            "holds a demonstration already",
            "Choose an empty or new directory, or remove this one",
        )
    require_empty(directory)
    port = usable_port(port)  # before anything is written: the next attempt may use the directory
    vendor = Vendor.found("ACME Radio", clock=now)
    vendor.write(directory / "vendor")
    credential, device_key = vendor.make_device(HOST)
    write_certificates(directory / "vendor" / "device.pem", [credential.certificate])
    write_private_key(directory / "vendor" / "device.key", device_key)
    config_path = write_setup(
        directory,
        organisation="Example Operator",
        vendors={"acme": ("vendor/root.pem", "vendor/sub.pem")},
        domain=None,  # with a client of their own, people ask for whatever name comes to mind
        now=now(),
        port=port,
        status_port=usable_port(0),
        management_port=usable_port(0),
        implicit_confirm="relay",
    )
    events = _Events()
    application = Application(load(config_path), sink=events)
    host, bound_port = await application.start()
    url = f"http://{host}:{bound_port}/.well-known/cmp"
    try:
        identity = DeviceIdentity(credential)  # no operator root: it comes with the ip
        async with open_session() as session:
            enrolled = await _operation(console, events, session, url, identity, BodyType.ir)
            _write_result(directory / "device", "enrolled", *enrolled)
            renewed = await _operation(
                console, events, session, url, enrolled[0].identity, BodyType.kur
            )
            _write_result(directory / "device", "renewed", *renewed)
        ended = catch_signals()  # before anybody can know that it serves, and end it
        _write_at_once(directory / "management_url", application.management.url + "\n")
        _write_at_once(directory / "url", url + "\n")
        _print_what_next(console, directory, url, keep=keep)
        if keep:
            console.print(f"\nserving {url} until Ctrl-C", highlight=False)
            events.logs_all = True
            await ended.wait()
    finally:
        await application.stop()


async def _operation(
    console: Console,
    events: _Events,
    session: aiohttp.ClientSession,
    url: str,
    identity: DeviceIdentity,
    body_type: BodyType,
) -> tuple[Done, object]:
    key = KEY_KINDS["p256"]()
    renewing = body_type is BodyType.kur
    options = RequestOptions(
        body_type=body_type,
        subject=None if renewing else SUBJECT,
        san=() if renewing else SAN,
    )
    enrollment = Enrollment(identity, key, options, clock=now, random_octets=secrets.token_bytes)
    first = len(events.seen)
    done = await run(enrollment, url, session)
    title = (
        "Renewal: the old operator certificate takes the vendor's place"
        if renewing
        else "Initial enrolment: a vendor certificate, no operator root"
    )
    console.print(_dialogue(title, enrollment.trace, events.seen[first:]))
    return done, key


def _dialogue(
    title: str, trace: Sequence[TracedMessage], events: Sequence[RequestHandled]
) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("base station", "", "RA gateway"):
        table.add_column(column)
    table.add_column("octets", justify="right")
    table.add_column("what it says", overflow="fold")
    answered = iter(events)
    for message in trace:
        sent = message.direction is Direction.sent
        event = None if sent else next(answered, None)
        outcome = str(message.status) if message.status is not None else ""
        if event is not None and event.outcome == "issued":
            outcome += f": {event.subject}, serial {event.serial_number[:16]}..."
        elif event is not None and event.outcome == "confirmed":
            outcome = "confirmed"
        table.add_row(
            message.name if sent else "",
            "-->" if sent else "<--",
            "" if sent else message.name,
            str(message.size_bytes),
            Text(printable(outcome)),
        )
    return table


def _write_result(directory: Path, name: str, done: Done, key: object) -> None:
    write_certificates(directory / f"{name}.pem", [done.certificate, *done.chain])
    write_private_key(directory / f"{name}.key", key)
    if not (directory / "operator-root.pem").exists():
        write_certificates(directory / "operator-root.pem", [done.operator_root])


def _print_what_next(console: Console, directory: Path, url: str, *, keep: bool) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for path, what in (
        ("gateway.toml", "the gateway's configuration"),
        (
            "vendor/",
            "root.pem, sub.pem, sub.key; device.pem, device.key: the factory and a base station",
        ),
        ("operator/root.pem", "the operator's root"),
        ("device/", "what the base station got: enrolled.pem, renewed.pem, their keys"),
        ("ca/ledger.sqlite", "what the bundled CA issued"),
        ("url", "the URL to post to"),
        ("management_url", "the URL of /metrics, /livez and /readyz"),
    ):
        table.add_row(path, what)
    console.print(Text.assemble("\nFiles in ", (printable(str(directory)), "bold"), ":"))
    console.print(table)
    server, path = url.removeprefix("http://").split("/", 1)
    console.print("\nThe same with OpenSSL's client:")
    if not keep:  # this gateway ends now
        directory, server = Path("/tmp/demo"), "127.0.0.1:8080"  # noqa: S108 - an example for people
        console.print(
            f"  make demo KEEP=1 DIR={directory} PORT=8080 &", highlight=False, markup=False
        )
    console.print(
        f"  cd {directory} && openssl ecparam -name prime256v1 -genkey -noout -out new.key &&\n"
        f"  openssl cmp -cmd ir -server {server} -path /{path} \\\n"
        "    -cert vendor/device.pem -key vendor/device.key -extracerts vendor/sub.pem \\\n"
        "    -trusted operator/root.pem -newkey new.key -certout new.pem \\\n"
        "    -subject '/CN=enb-0002.ran.example.net' -sans enb-0002.ran.example.net",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _write_at_once(path: Path, text: str) -> None:
    """Write a file that whoever waits for it finds complete."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.unlink(missing_ok=True)
    write_new(unfinished, text.encode())
    unfinished.rename(path)
