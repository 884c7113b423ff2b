"""`ra-gateway reload`, `ca reload`: have a running service go over to its configuration as it is now, and say so."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from ra_gateway.cli.output import CONFIG, ConfigOption, fail, say

if TYPE_CHECKING:
    from ssl import SSLContext

    from ra_gateway.config.service_tables import ListenerTLSConfig, ManagementConfig

_PATIENCE_SECONDS: Final = 120.0
"""CRLs are fetched and keys in an HSM are tried out before a configuration holds."""

_MAX_STATUS_BYTES: Final = 1_000_000

_LISTENS: Final = "0A"
"""State of a socket, as the kernel's tables have it."""


class _TLS(NamedTuple):
    """How a service is met over TLS, and the only certificate, DER, that it is known by."""

    context: SSLContext
    certificate: bytes


class _Listener(NamedTuple):
    """Where a service tells its status, and what it is met with there, if that is TLS."""

    url: str
    host: str
    port: int
    tls: _TLS | None


TLSCertOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        help="Own certificate, PEM, where management.tls.client_ca_paths asks for one.",
    ),
]
TLSKeyOption = Annotated[Path | None, typer.Option("--tls-key", help="Its key, PEM.")]


def reload(
    tls_cert: TLSCertOption = None, tls_key: TLSKeyOption = None, config: ConfigOption = CONFIG
) -> None:
    """Check the configuration, then have the gateway that runs with it on this machine take it up."""
    from ra_gateway.app.application import Application
    from ra_gateway.app.running import check
    from ra_gateway.config.reading import is_of_ca_alone, load

    if is_of_ca_alone(config):
        reload_ca(tls_cert, tls_key, config)
        return
    settings = load(config)
    check(Application, settings)
    _take_up(_listener(settings.management, settings.server.listen_port, (tls_cert, tls_key)))


def reload_ca(
    tls_cert: TLSCertOption = None, tls_key: TLSKeyOption = None, config: ConfigOption = CONFIG
) -> None:
    """Check the configuration, then have the `ca serve` that runs with it on this machine take it up."""
    from ra_gateway.app.ca_service import CAService  # the extra `ca`
    from ra_gateway.app.running import check
    from ra_gateway.config.reading import load_ca

    settings = load_ca(config)
    check(CAService, settings)
    _take_up(_listener(settings.management, settings.ca.server.listen_port, (tls_cert, tls_key)))


def _take_up(listener: _Listener) -> None:
    before = _status(listener)
    pid = before["pid"]
    try:
        # Whoever else listens there is not to name a process that a hangup ends: every Python has this program's file.
        is_ours = os.path.samefile(f"/proc/{pid}/exe", "/proc/self/exe")
        listens = _listens(pid, listener.port)
        if listens and not is_ours:
            program = os.readlink(f"/proc/{pid}/exe")
            fail(
                [
                    f"the process {pid} at {listener.url} runs {program}, not the Python of this command, as after an "
                    "update of Python. If it is the service, restart it, or use `systemctl reload`"
                ],
                1,
            )
        if not listens:
            fail(
                [
                    f"{listener.url} names the process {pid}, which is no service that listens there."
                ],
                1,
            )
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        fail([f"the process {pid} cannot be told: {error.strerror}. Run this as its user"], 1)
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while (now := _status(listener))["reloads"] == before["reloads"] and now["pid"] == pid:
        if time.monotonic() > give_up_at:
            fail([f"the process {pid} has not reloaded yet. Look into its log"], 1)
        time.sleep(0.1)
    last = now["reloads"]["last"]
    if now["pid"] != pid or last["outcome"] != "reloaded":
        problems = last["problems"] if last else ["the process has ended meanwhile"]
        fail([*problems, f"The process {pid} goes on with its old configuration."], 1)
    say(f"Reloaded: the process {pid} goes by configuration {now['configuration']}.")


def _listens(pid: int, port: int) -> bool:
    """Tell whether a process listens on a TCP port of this machine.

    Raises:
        OSError: There is no such process, or it is of another user.
    """
    sockets = set()
    for table in map(Path, ("/proc/net/tcp", "/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, _, state, *rest = line.split()
            if state == _LISTENS and int(local.rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{rest[5]}]")
    for item in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(item) in sockets:
                return True
    return False


def _listener(
    management: ManagementConfig, service_port: int, own: tuple[Path | None, Path | None]
) -> _Listener:
    """Return how a service's management listener is reached."""
    port = management.port_beside(service_port)
    if not management.enabled or not port:
        fail(
            [
                "the service is found by its management listener, which has to be enabled, with a port of its own. Use "
                "`systemctl reload`, or send SIGHUP to the process"
            ],
            1,
        )
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not bound
    host = anywhere.get(management.listen_host, management.listen_host)
    tls = None if management.tls is None else _tls(management.tls, own)
    scheme = "http" if tls is None else "https"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/status"
    return _Listener(url, host, port, tls)


def _tls(config: ListenerTLSConfig, own: tuple[Path | None, Path | None]) -> _TLS:
    """Return what trusts the very certificate that the listener has in its file, whatever its names and dates are."""
    import ssl

    from ra_gateway.keys import load_certificates
    from ra_gateway.upstream.tls import openssl_reason

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # By no CA: others have certificates of the same one. Who has the key of this one is the listener.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    certificate, key = own
    if certificate is None and config.client_ca_paths:
        fail(
            [
                "the management listener wants a certificate of its clients (management.tls.client_ca_paths). Give one "
                "with --tls-cert and --tls-key, or use `systemctl reload`"
            ],
            1,
        )
    if certificate is not None:
        try:
            # Never without a password: OpenSSL would ask the terminal for one.
            context.load_cert_chain(certificate, key, b"")
        except (OSError, ValueError) as error:
            fail([f"--tls-cert: {certificate} cannot be used: {openssl_reason(error)}"], 1)
    return _TLS(context, load_certificates(config.certificate_path, "management.tls")[0].der)


def _status(listener: _Listener) -> dict[str, Any]:
    from http.client import HTTPConnection, HTTPException, HTTPSConnection
    from ssl import SSLError, SSLSocket

    asked = (
        HTTPConnection(listener.host, listener.port, timeout=10.0)
        if listener.tls is None
        else HTTPSConnection(
            listener.host, listener.port, timeout=10.0, context=listener.tls.context
        )
    )
    try:
        with closing(asked):
            asked.connect()
            if listener.tls is not None:
                assert isinstance(asked.sock, SSLSocket)
                if asked.sock.getpeercert(True) != listener.tls.certificate:
                    raise SSLError(
                        1, "it has not the certificate that is first in certificate_path"
                    )
            asked.request("GET", "/status")
            found: dict[str, Any] = json.loads(asked.getresponse().read(_MAX_STATUS_BYTES))
        if type(found["pid"]) is not int or found["pid"] < 1 or "reloads" not in found:
            raise ValueError
    except (OSError, HTTPException, ValueError, KeyError, TypeError, RecursionError) as error:
        why = f" ({error})" if isinstance(error, SSLError) else ""
        fail([f"no service answers at {listener.url}{why}. Start it, or look at [management]"], 1)
    return found
