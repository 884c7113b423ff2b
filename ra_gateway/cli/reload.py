"""`ra-gateway reload`, `ca reload`: have a running service go over to its configuration as it is now, and say so."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from ra_gateway.cli.ledger_context import actor
from ra_gateway.cli.output import CONFIG, ConfigOption, JSONOption, fail, print_json, say
from ra_gateway.config.source import Source
from ra_gateway.errors import ConfigError

if TYPE_CHECKING:
    from ssl import SSLContext

    from ra_gateway.config.service_tables import ListenerTLSConfig, ManagementConfig
    from ra_gateway.config.tables import CAServiceConfig, GatewayConfig

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


class _Refused(Exception):
    """The service goes on as before.

    Args:
        problems: Sentences.
        pid: Of the process that refused; None where none was asked.
        configuration: Digest of the one that it goes by.
    """

    def __init__(
        self, problems: Sequence[str], pid: int | None = None, configuration: str | None = None
    ) -> None:
        super().__init__(*problems)
        self.problems, self.pid, self.configuration = list(problems), pid, configuration


def reload(
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    as_json: JSONOption = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Check the configuration, then have the gateway that runs with it on this machine take it up."""
    from ra_gateway.app.application import Application
    from ra_gateway.app.running import check
    from ra_gateway.config.reading import is_of_ca_alone, load

    def checked() -> _Listener:
        if is_of_ca_alone(config):
            return _checked_ca(config, (tls_cert, tls_key))
        settings = load(config)
        check(Application, settings)
        _record(settings)
        return _listener(settings.management, settings.server.listen_port, (tls_cert, tls_key))

    _reload(checked, as_json=as_json)


def reload_ca(
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    as_json: JSONOption = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Check the configuration, then have the `ca serve` that runs with it on this machine take it up."""
    _reload(lambda: _checked_ca(config, (tls_cert, tls_key)), as_json=as_json)


def _record(settings: GatewayConfig | CAServiceConfig) -> None:
    """Have the audit trail say who wants it: a signal that comes to a service has no name on it."""
    from ra_gateway.app.audit_acts import record_act
    from ra_gateway.app.configuration_changes import config_digest

    record_act(settings.audit, actor(), "reload.asked", "", {"digest": config_digest(settings)})


def _checked_ca(config: Source, own: tuple[Path | None, Path | None]) -> _Listener:
    from ra_gateway.app.ca_service import CAService  # the extra `ca`
    from ra_gateway.app.running import check
    from ra_gateway.config.reading import load_ca

    settings = load_ca(config)
    check(CAService, settings)
    _record(settings)
    return _listener(settings.management, settings.ca.server.listen_port, own)


def _reload(checked: Callable[[], _Listener], *, as_json: bool) -> None:
    """Have a configuration taken up, and print what came of that.

    Args:
        checked: Looks it through, and returns where the service is met.
    """
    code, pid, digest = 0, None, None
    problems: list[str] = []
    try:
        pid, digest = _take_up(checked())
    except ConfigError as error:
        if not as_json:
            raise
        code, problems = 2, list(map(str, error.problems))
    except _Refused as error:
        code, pid, digest, problems = 1, error.pid, error.configuration, error.problems
    if as_json:
        done = {"reloaded": not code, "pid": pid, "configuration": digest, "problems": problems}
        print_json(done)
        raise typer.Exit(code)
    if code:
        goes_on = f"The process {pid} goes on with its old configuration."
        fail([*problems, *([] if pid is None else [goes_on])], code)
    say(f"Reloaded: the process {pid} goes by configuration {digest}.")


def _take_up(listener: _Listener) -> tuple[int, str]:
    """Hang up the process that listens there; returns its number, and the digest of what it goes by now."""
    before = _status(listener)
    pid = before["pid"]
    try:
        # Whoever else listens there is not to name a process that a hangup ends: every Python has this program's file.
        is_ours = os.path.samefile(f"/proc/{pid}/exe", "/proc/self/exe")
        listens = _listens(pid, listener.port)
        if listens and not is_ours:
            program = os.readlink(f"/proc/{pid}/exe")
            raise _Refused(
                [
                    f"the process {pid} at {listener.url} runs {program}, not the Python of this command, as after an "
                    "update of Python. If it is the service, restart it, or use `systemctl reload`"
                ]
            )
        if not listens:
            raise _Refused(
                [f"{listener.url} names the process {pid}, which is no service that listens there."]
            )
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        todo = "Run this as its user"
        raise _Refused([f"the process {pid} cannot be told: {error.strerror}. {todo}"]) from error
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while (now := _status(listener))["reloads"] == before["reloads"] and now["pid"] == pid:
        if time.monotonic() > give_up_at:
            raise _Refused([f"the process {pid} has not reloaded yet. Look into its log"])
        time.sleep(0.1)
    if now["pid"] != pid:
        raise _Refused([f"the process {pid} has ended meanwhile"])
    last = now["reloads"]["last"]
    if last["outcome"] != "reloaded":
        raise _Refused(last["problems"], pid, now["configuration"])
    return pid, now["configuration"]


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
        raise _Refused(
            [
                "the service is found by its management listener, which has to be enabled, with a port of its own. Use "
                "`systemctl reload`, or send SIGHUP to the process"
            ]
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
        raise _Refused(
            [
                "the management listener wants a certificate of its clients (management.tls.client_ca_paths). Give one "
                "with --tls-cert and --tls-key, or use `systemctl reload`"
            ]
        )
    if certificate is not None:
        try:
            # Never without a password: OpenSSL would ask the terminal for one.
            context.load_cert_chain(certificate, key, b"")
        except (OSError, ValueError) as error:
            raise _Refused(
                [f"--tls-cert: {certificate} cannot be used: {openssl_reason(error)}"]
            ) from error
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
        problem = f"no service answers at {listener.url}{why}. Start it, or look at [management]"
        raise _Refused([problem]) from error
    return found
