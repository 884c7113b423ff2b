"""Making what a gateway needs to start: CA material, the RA's certificate, a configuration."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import socket
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ra_gateway.app.running import CannotListen
from ra_gateway.ca.hierarchy import SignerNames
from ra_gateway.ca.keys import create_operator_pki
from ra_gateway.ca.ledger.ledger import open_ledger
from ra_gateway.ca.ra_credential import issue_ra_certificate
from ra_gateway.ca.records import DEFAULT_PROFILE, Privilege, Role
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import escape_rfc4514
from ra_gateway.config.reading import parse
from ra_gateway.errors import ConfigError, Problem
from ra_gateway.files import make_directory, write_new
from ra_gateway.keys import load_certificates, write_certificates

ACTOR: Final = "setup"
"""Who made the first entries of the ledger, for its audit trail."""

_HEAD = """\
# ra_gateway, a starting point. Every key is explained in docs/configuration.md.

[server]
listen_host = "{host}"
listen_port = {port}
{management}
[log]
# "console" has lines for a terminal; programs, `ra-gateway why` among them, read "json".
format = "json"
level = "info"

# In memory: one process, nothing survives a restart. For more, kind = "redis", and its URL: redis_url_path names a file
# that holds it, or redis_url = "redis://127.0.0.1:6379/0" is the URL itself, if it has no password. Every gateway that
# shares a Redis needs this same seal.key: who has it can make the gateways believe what is kept there.
[store]
kind = "memory"
seal_key_paths = ["seal.key"]

# Who asked what, and who did what by hand, as a chain of records (docs/audit.md):
# [audit]
# sqlite_path = "audit.sqlite"

[ra]
certificate_path = "ra/ra.pem"
key_path = "ra/ra.key"
chain_paths = ["operator/issuing.pem"]

[operator]
anchors_paths = ["operator/root.pem"]
intermediates_paths = ["operator/issuing.pem"]

[upstreams.bundled]
kind = "bundled"

[ca]
# ca/root.key belongs offline, in two copies: a change of the issuing CA or of the root needs it, the service never.
directory_path = "ca"
ledger_path = "ca/ledger.sqlite"
profile = "{profile}"
{own}# Where verifiers find the CRL: it stands in every certificate. Put a name here that they can resolve and reach.
crl_url = "{crl_url}"

[ca.status]
listen_port = {status_port}
{profiles}
[endpoints.ran]
paths = ["/.well-known/cmp", "/pkix"]
vendors = [{vendors}]
upstream = "bundled"
implicit_confirm = "{implicit_confirm}"
"""

_MANAGEMENT = """
# Metrics (/metrics) and health (/livez, /readyz), for this machine alone, 1000 above the port above.
# [management]
# listen_port = 9080
"""

_OTHER_PORT = """
# Metrics (/metrics) and health (/livez, /readyz), for this machine alone.
[management]
listen_port = {}
"""

_TRIAL = """
# Looser than TS 33.310 6.1.3b, for trials only: any proper subject is certified, in any order and with or without O
# and SubjectAltName, and keys that are stronger than the CA's. For a network that carries traffic, take this table out
# and set profile = "ne_ipsec".
[ca.profiles.trial]
base = "ne_ipsec"
subject_form = "any"
san_required = false
stronger_keys = true
allowed_extended_key_usage = ["ipsecIKE", "iKEIntermediate", "serverAuth", "clientAuth"]
"""

_OWN = """\
# Names in other domains, and under other organisations, are not certified.
domains = [{domain}]
organisations = [{organisation}]
"""

_NO_VENDOR = """
# No vendor is trusted yet, so no base station can enrol. For each manufacturer:
#
# [vendors.acme]
# anchors_paths = ["acme/root.pem"]
# intermediates_paths = ["acme/sub.pem"]
#
# [vendors.acme.identity]
# subject = "derive"
# subject_template = "CN={host}.ran.example.net,O=Example Operator"
# allowed_subjects = ["CN={host}.ran.example.net,O=Example Operator"]
#
# and add "acme" to vendors of [endpoints.ran].
"""

_VENDOR = """
[vendors.{name}]
anchors_paths = [{root}]
{intermediates}
"""

_ANY_NAME = """\
# Any base station of this vendor, under the subject it asks for: for trials only.
[vendors.{name}.identity]
subject = "keep"
allowed_subjects = ["*"]
allowed_sans = ["*"]
"""

_OWN_NAME = """\
# A base station has the name that its vendor certificate gives it, and no other: {{host}} is the first label of the
# FQDN in that certificate's subjectAltName (TS 33.310 9.4.4), {{serial_number}} and {{cn}} are the attributes
# serialNumber and commonName of its subject; take out what does not name one device. A pattern without such a
# placeholder, like "CN=*.{domain}", lets each base station of this vendor take any other's name.
[vendors.{name}.identity]
subject = "derive"
subject_template = {template}
allowed_subjects = [{subjects}]
san_template = [{san}]
allowed_sans = [{sans}]
"""

_PLAIN: Final = re.compile(r"[A-Za-z0-9 .-]+")
"""What a pattern of names takes as it is."""


def write_setup(
    directory: Path,
    *,
    organisation: str,
    vendors: Mapping[str, tuple[str, str]],
    domain: str | None,
    now: datetime,
    host: str = "127.0.0.1",
    port: int = 8080,
    status_port: int = 8082,
    management_port: int | None = None,
    subjects: Mapping[str, str] = MappingProxyType({}),
    key_kind: str = "p256",
    implicit_confirm: str = "deny",
) -> Path:
    """Write a complete, working set of files into a directory.

    Args:
        organisation: O of every subject.
        vendors: Name to (root PEM, sub-CA PEM or ""), both relative to the directory.
        domain: DNS domain of base stations, each of which has the name there that its vendor certificate gives it;
            None lets every base station of a vendor have any name it asks for, under a profile that takes it.
        now: Aware UTC; certificates are valid from a little earlier.
        status_port: Where the CA serves its CRLs.
        management_port: Where metrics and health are; None for the default.
        subjects: "root", "issuing", "cmp", "ocsp", "ra" to a subject, RFC 4514.
        key_kind: Of CA and RA keys.

    Returns:
        Path of gateway.toml.

    Raises:
        ConfigError: There is something in the way; nothing is overwritten.
    """
    config = directory / "gateway.toml"
    in_the_way = [
        path
        for path in (
            config,
            directory / "seal.key",
            directory / "ca",
            directory / "ra",
            directory / "operator",
        )
        if path.exists()
    ]
    if in_the_way:
        raise ConfigError(
            [
                Problem(str(path), "exists already", "Choose an empty directory, or remove it")
                for path in in_the_way
            ]
        )
    crl_url = f"http://{host}:{status_port}/crl/{{issuer}}.crl"
    own = (
        ""
        if domain is None
        else _OWN.format(domain=json.dumps(domain), organisation=json.dumps(organisation))
    )
    text = _HEAD.format(
        profile="trial" if domain is None else "ne_ipsec",
        profiles=_TRIAL if domain is None else "",
        own=own,
        crl_url=crl_url,
        status_port=status_port,
        host=host,
        port=port,
        management=_MANAGEMENT if management_port is None else _OTHER_PORT.format(management_port),
        implicit_confirm=implicit_confirm,
        vendors=", ".join(f'"{name}"' for name in vendors),
    )
    text += "".join(_vendor(name, *paths, organisation, domain) for name, paths in vendors.items())
    text += "" if vendors else _NO_VENDOR
    parse(text, directory=directory, check_files=False)  # before there is anything to clear away
    make_directory(directory)
    write_new(directory / "seal.key", f"{secrets.token_hex(32)}\n".encode())
    # TS 33.310 9.4.6: RA and CA have names that their peers can look up, as a SEG has.
    names = [SignerNames.made([_host(role, domain, host)], crl_url) for role in ("cmp", "ra")]
    run_apart(_make_pki(directory, organisation, now, key_kind, subjects, *names))
    for name in ("root", "issuing"):
        certificates = load_certificates(directory / "ca" / f"{name}.pem", f"ca.{name}")
        write_certificates(directory / "operator" / f"{name}.pem", certificates[:1])
    write_new(config, text.encode())
    return config


def _host(role: str, domain: str | None, address: str) -> str:
    return f"ip:{address}" if domain is None else f"dns:{role}.{domain}"


async def _make_pki(
    directory: Path,
    organisation: str,
    now: datetime,
    key_kind: str,
    subjects: Mapping[str, str],
    cmp_names: SignerNames,
    ra_names: SignerNames,
) -> None:
    of_ca = {role: subject for role, subject in subjects.items() if role != "ra"}
    await create_operator_pki(
        directory / "ca",
        now=now,
        name=organisation,
        key_kind=key_kind,
        subjects=of_ca,
        cmp_names=cmp_names,
    )
    escaped = escape_rfc4514(organisation)
    certificate = await issue_ra_certificate(
        directory / "ca",
        subjects.get("ra", f"CN={escaped} RA,O={escaped}"),
        now=now,
        target=directory / "ra",
        key_kind=key_kind,
        names=ra_names,
    )
    await _register(directory / "ca" / "ledger.sqlite", certificate, now)


async def _register(path: Path, certificate: Certificate, now: datetime) -> None:
    """Make the ledger, and the gateway a registered authority in it."""
    ledger = open_ledger(path)
    await ledger.open()
    try:
        registry = ledger.registry
        await registry.put_role(
            Role("ra", frozenset(Privilege), (DEFAULT_PROFILE, "ne_ipsec")), ACTOR, now
        )
        await registry.put_authority("gateway", "ra", ACTOR, now)
        await registry.add_authority_certificate("gateway", certificate.der, ACTOR, now)
    finally:
        await ledger.close()


def run_apart(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end in a thread and loop of its own, also from within a running loop."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


def _vendor(name: str, root: str, sub: str, organisation: str, domain: str | None) -> str:
    # Texts in JSON are texts in TOML: quotes and backslashes in a path do no harm.
    intermediates = f"intermediates_paths = [{json.dumps(sub)}]\n" if sub else ""
    text = _VENDOR.format(name=name, root=json.dumps(root), intermediates=intermediates)
    return text + (
        _ANY_NAME.format(name=name) if domain is None else _own_name(name, organisation, domain)
    )


def _own_name(vendor: str, organisation: str, domain: str) -> str:
    hosts = [f"{{{placeholder}}}.{domain}" for placeholder in ("host", "serial_number", "cn")]
    # TS 33.310 6.1.1: no subject without O, and the CA knows which.
    pattern = organisation if _PLAIN.fullmatch(organisation) else "*"
    names = [f"CN={host},O={pattern}" for host in hosts]
    return _OWN_NAME.format(
        name=vendor,
        domain=domain,
        template=json.dumps(f"CN={hosts[0]},O={escape_rfc4514(organisation)}"),
        subjects=", ".join(map(json.dumps, names)),
        san=json.dumps(f"dns:{hosts[0]}"),
        sans=", ".join(json.dumps(f"dns:{host}") for host in hosts),
    )


def require_empty(directory: Path) -> None:
    """Make sure that a directory is new or empty, so that nothing is overwritten or mixed up.

    Raises:
        ConfigError: It is not, or it is a file, or it cannot be read.
    """
    try:
        found = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise _not_usable(directory, f"cannot be used: {error.strerror}") from error
    if found:
        names = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
        raise _not_usable(directory, f"is not empty: it has {names}")


def _not_usable(directory: Path, what: str) -> ConfigError:
    return ConfigError.of(str(directory), what, "Choose an empty or new directory")


def usable_port(port: int) -> int:
    """Return the port if it can be listened on, or a free one for 0.

    Raises:
        CannotListen: It cannot.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CannotListen(
                f"cannot listen on 127.0.0.1:{port}: {error.strerror}. Choose another port, or 0"
            ) from error
        number: int = probe.getsockname()[1]
        return number
