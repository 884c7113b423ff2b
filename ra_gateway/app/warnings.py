"""What works and is less safe than it looks: said by `check-config` and by the doctor, with what to do."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from ra_gateway.app.listener_tls import TLS_EXPIRY_WARNING, tls_tables
from ra_gateway.app.name_warnings import of_names_to_issue
from ra_gateway.app.profile_warnings import of_ca, of_keys, of_management, of_ra
from ra_gateway.app.trust import MAX_CRL_OCTETS, are_others, certificates
from ra_gateway.app.trust_warnings import of_trust, of_vendors
from ra_gateway.app.unused import of_secrets, unused_tables
from ra_gateway.cmp.algorithms import canonical_spki
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crl import (
    CRLContent,
    decode_crl,
    distribution_point_names,
    distribution_point_urls,
    open_crl,
    split_crls,
)
from ra_gateway.cmp.names import CanonicalName, canonical, readable
from ra_gateway.cmp.ocsp import responder_urls
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.config.service_tables import ListenerTLSConfig
from ra_gateway.config.tables import CAServiceConfig, GatewayConfig, IdentityConfig, VendorConfig
from ra_gateway.config.trust_tables import RevocationConfig
from ra_gateway.errors import ConfigError, CRLRefused, MalformedMessage, Problem
from ra_gateway.files import read_bounded
from ra_gateway.keys import names_hsm_key
from ra_gateway.ra.settings import InventoryUse
from ra_gateway.revocation.settings import Mode
from ra_gateway.upstream.tables import AnswerTrust

EXPIRES_SOON: Final = timedelta(days=90)
"""A vendor's new root or an operator's new CA takes its time."""

CA_EXPIRES_SOON: Final = timedelta(days=30)
"""What is renewed by one command, and without anybody else."""

_WILDCARDS: Final = frozenset("*?.")

_EXAMPLES: Final = {
    "subjects": "CN={serial_number}.ran.example.net,O=Example",
    "sans": "dns:{serial_number}.ran.example.net",
}

_LEDGER_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")
"""SQLite's files."""


def warnings(config: GatewayConfig, now: datetime) -> list[Problem]:
    """Return what should be changed about a configuration that can be served, and about the files it names.

    Args:
        now: Aware UTC.
    """
    return [
        *of_safety(config),
        *_of_expiry(_certificate_paths(config), now),
        *_of_expiry(_tls_paths(tls_tables(config)), now, TLS_EXPIRY_WARNING),
        *_of_crls(config, now),
        *of_secrets(config, now),
        *(() if config.ca is None else of_ca_expiry(config.ca, now)),
    ]


def ca_warnings(config: CAServiceConfig, now: datetime) -> list[Problem]:
    """Return the same of a configuration that `ra-gateway ca serve` reads.

    Args:
        now: Aware UTC.
    """
    client = config.ca.client
    vendors = {} if client is None else {name: config.vendors[name] for name in client.vendors}
    public = [*_vendor_paths(vendors)]
    return [
        *_of_root_keys(_root_keys(config.ca)),
        *_of_deltas(config.ca),
        *_of_modes({}, config.ca, public),
        *of_ca(config.ca),
        *of_management(config.management),
        *of_vendors(vendors),
        *_of_expiry(public, now),
        *_of_expiry(_tls_paths(tls_tables(config)), now, TLS_EXPIRY_WARNING),
    ]


def of_safety(config: GatewayConfig) -> list[Problem]:
    """Return what strangers, devices or neighbours on the host could use; nothing of certificates' dates."""
    beside = [path.with_suffix(".key") for path in config.operator.anchors_paths]
    public = [*_certificate_paths(config)]
    if config.inventory is not None and config.inventory.csv_path is not None:
        public.append(("inventory.csv_path", (config.inventory.csv_path,)))
    return [
        *_of_names(config),
        *_of_limits(config),
        *_of_shared_roots(config),
        *of_trust(config),
        *_of_revocation(config),
        *_of_answers(config),
        *_of_deltas(config.ca),
        *_of_root_keys([*beside, *_root_keys(config.ca)]),
        *_of_modes({"ra.key_path": [config.ra.key_path]}, config.ca, public),
        *(() if config.ca is None else of_ca(config.ca)),
        *of_keys("ra.certificate_path", [config.ra.certificate_path]),
        *of_ra(config.ra.certificate_path, config.ca),
        *of_management(config.management),
        *unused_tables(config),
        *of_names_to_issue(config),
    ]


def of_file(path: Path) -> list[Problem]:
    """Return what others could do to the configuration file itself."""
    if not (mode := _mode(path)) & (stat.S_IWGRP | stat.S_IWOTH):
        return []
    return [_writable(str(path), path, mode, "decide whom it trusts")]


def _writable(setting: str, path: Path, mode: int, what: str) -> Problem:
    return Problem(
        setting,
        f"{path} has mode {stat.S_IMODE(mode):04o}: others than its owner can {what}",
        f"Run: chmod go-w {shlex.quote(str(path))}",
    )


# --- limits ---------------------------------------------------------------------------------------------------


def _of_limits(config: GatewayConfig) -> Iterator[Problem]:
    most = config.limits.requests_per_second
    for name, vendor in config.vendors.items():
        of_vendor = vendor.requests_per_second
        if most is not None and of_vendor is not None and of_vendor >= most:
            yield Problem(
                f"vendors.{name}.requests_per_second",
                f"is {of_vendor:g}, and all together may have {most:g} (limits.requests_per_second): this vendor's "
                "devices can use up what is everybody's",
                "Set it below limits.requests_per_second, so that something is left to the others",
            )


# --- names ----------------------------------------------------------------------------------------------------


def _of_names(config: GatewayConfig) -> Iterator[Problem]:
    for name, vendor in config.vendors.items():
        if vendor.enabled:
            yield from _of_identity(f"vendors.{name}.identity", vendor.identity)
    for name, endpoint in config.endpoints.items():
        for index, route in enumerate(endpoint.routes):
            if route.identity is not None:
                setting = f"endpoints.{name}.routes[{index}].identity"
                yield from _of_identity(setting, route.identity)
        relays = endpoint.registration_authorities
        if relays is not None:
            setting = f"endpoints.{name}.registration_authorities"
            yield from _of_patterns(setting, relays.allowed_subjects, "subjects")
            yield from _of_patterns(setting, relays.allowed_sans, "sans")
            for index, rights in enumerate(relays.rights):
                of_one = f"{setting}.rights[{index}]"
                yield from _of_patterns(of_one, rights.allowed_subjects, "subjects")
                yield from _of_patterns(of_one, rights.allowed_sans, "sans")
            for index, named in enumerate(relays.names):
                of_one = f"{setting}.names[{index}]"
                yield from _of_patterns(of_one, named.allowed_subjects, "subjects")
                yield from _of_patterns(of_one, named.allowed_sans, "sans")


def _of_shared_roots(config: GatewayConfig) -> Iterator[Problem]:
    """Yield the anchors that two vendors of one endpoint have: devices below are those of the first."""
    told: set[tuple[str, str]] = set()
    for endpoint in config.endpoints.values():
        first: dict[bytes, str] = {}
        for name in endpoint.vendors:
            if not config.vendors[name].enabled:
                continue
            setting = f"vendors.{name}.anchors_paths"
            for anchor in _readable(config.vendors[name].anchors_paths):
                owner = first.setdefault(canonical_spki(anchor.spki_der), name)
                if owner != name and (owner, name) not in told:
                    told.add((owner, name))
                    yield Problem(
                        setting,
                        f"{anchor.subject} is an anchor of vendors.{owner} too, whose quirks and identity rules then "
                        "hold for the devices of both",
                        "Give each vendor the CAs of its own as anchors, or make one vendor of the two",
                    )


def _of_identity(setting: str, identity: IdentityConfig) -> Iterator[Problem]:
    # Whatever a pattern allows, the list says who has which name.
    bound = identity.inventory is InventoryUse.required
    for what in ("subjects", "sans"):
        patterns = getattr(identity, f"allowed_{what}")
        yield from _of_patterns(setting, patterns, what)
        for pattern in patterns:
            if not (bound or allows_all(pattern)) and _is_shared(pattern):
                yield Problem(
                    f"{setting}.allowed_{what}",
                    f'has "{pattern}": a device may have the name of any other that fits',
                    f'Bind it to what the vendor certificate says, such as "{_EXAMPLES[what]}"; or list the '
                    'devices, with inventory = "required"',
                )


def _of_patterns(setting: str, patterns: Sequence[str], what: str) -> Iterator[Problem]:
    for pattern in filter(allows_all, patterns):
        yield Problem(
            f"{setting}.allowed_{what}",
            f'has "{pattern}": whoever is let in may have the name of any other device, or of a server',
            f'Write what names your devices have, such as "{_EXAMPLES[what]}"',
        )


def allows_all(pattern: str) -> bool:
    """Tell whether a pattern of names holds nothing but wildcards: "*", "CN=*", "dns:*", "dns:*.*"."""
    values = [part.partition("=")[2] or part for part in pattern.split(",")]
    return all(set(value.rpartition(":")[2]) <= _WILDCARDS for value in values)


def _is_shared(pattern: str) -> bool:
    """Tell whether a pattern has wildcards and nothing of the device's own certificate."""
    return not _WILDCARDS.isdisjoint(pattern.replace(".", "")) and "{" not in pattern


# --- revocation -----------------------------------------------------------------------------------------------


def _of_revocation(config: GatewayConfig) -> Iterator[Problem]:
    remote = [name for name, upstream in config.upstreams.items() if upstream.kind != "bundled"]
    if remote and config.operator.revocation.mode is Mode.off:
        yield Problem(
            "operator.revocation.mode",
            f"is off, and what upstream {remote[0]} revoked is known to that CA alone: a renewal by a revoked "
            "certificate is stopped only if the CA stops it",
            'Set it to "hard", with crl_urls or ocsp_url of that CA, and list that CA in operator.intermediates_paths',
        )
    operator = config.operator
    # In hard mode it is asked for anyway, for the CRLs' sake.
    if not operator.intermediates_paths and operator.revocation.mode is not Mode.hard:
        yield Problem(
            "operator.intermediates_paths",
            "lists none of the operator's issuing CAs, so that any CA the root certifies speaks for the operator's "
            "devices and CAs: another operator's, too, that is cross-certified (TS 33.310 7.3)",
            "List the operator's own; a new one before it is used",
        )
    chain = [*operator.intermediates_paths, config.ra.certificate_path, *config.ra.chain_paths]
    for upstream in config.upstreams.values():
        chain += upstream.issuing_ca_paths
    own = set(_cas(operator.intermediates_paths))
    yield from _of_sources(
        "operator",
        operator.revocation,
        [ca for ca in _cas(chain) if ca not in own or _names_a_place(ca)],
        "list it in operator.intermediates_paths, or ",
    )
    for name, vendor in config.vendors.items():
        cas = _cas(vendor.intermediates_paths)
        yield from _of_sources(f"vendors.{name}", vendor.revocation, cas)


def _of_answers(config: GatewayConfig) -> Iterator[Problem]:
    """Tell of CAs whose answers any CA below a root of somebody else may sign for: none of those is listed."""
    own = _readable(config.operator.anchors_paths)
    for name, upstream in config.upstreams.items():
        roots = _readable(upstream.trust_anchors_paths) if isinstance(upstream, AnswerTrust) else ()
        if roots and are_others(roots, own):
            yield Problem(
                f"upstreams.{name}.trust_anchors_paths",
                "has no root of the operator's, so that any CA that such a root certifies may speak for this CA",
                "Leave it out and list the CA's signer in ca_certificate_paths, unless all CAs below the root may",
            )


def _of_deltas(ca: CAConfig | None) -> Iterator[Problem]:
    if ca is not None and ca.status is not None and ca.status.delta_minutes:
        yield Problem(
            "ca.status.delta_minutes",
            "makes delta CRLs, which TS 33.310 6.1a does not have: a base station or security gateway that reads full "
            "CRLs alone hears of a revocation when the next one is made",
            "Set it to 0, unless whoever reads these CRLs is known to read delta CRLs",
        )


def _of_sources(
    where: str, revocation: RevocationConfig, cas: Iterable[Certificate], otherwise: str = ""
) -> Iterator[Problem]:
    """Tell of CAs whose own status "hard" wants, where no source of it is to be seen.

    Args:
        otherwise: What else than a source helps a CA whose certificate names none.
    """
    if revocation.mode is not Mode.hard:
        return
    known = {issuer for path in revocation.crl_paths for issuer in _crl_issuers(path)}
    for ca in cas:
        crls, responders = distribution_point_urls(ca), responder_urls(ca)
        if (
            canonical(ca.issuer_der) in known
            or len(revocation.crl_urls) > (canonical(ca.subject_der) not in known)
            or not set(crls).isdisjoint(revocation.crl_urls)
            or (revocation.from_certificates and crls)
            or (responders and (revocation.ocsp_url or revocation.ocsp_from_certificates))
        ):
            continue
        place = f" ({crls[0]})" if crls else ""
        todo = f"add the CRL of {ca.issuer}{place} to {where}.revocation.crl_urls"
        todo = todo if _names_a_place(ca) else f"{otherwise}{todo}"
        yield Problem(
            f"{where}.revocation.mode",
            f"is hard, which asks for the status of {ca.subject} as well, and no source of that is named: whoever has "
            "a certificate below it is refused (systemUnavail)",
            f"{todo[0].upper()}{todo[1:]}; `ra-gateway doctor` asks every source",
        )


def _names_a_place(ca: Certificate) -> bool:
    return bool(distribution_point_names(ca) or responder_urls(ca))


def _cas(paths: Iterable[Path]) -> list[Certificate]:
    """Return the CA certificates in files that are no roots."""
    return [item for item in _readable(paths) if item.is_ca and not item.self_issued]


def _readable(paths: Iterable[Path]) -> list[Certificate]:
    """Return the certificates in files; what cannot be read is told elsewhere."""
    found: dict[Certificate, None] = {}
    for path in paths:
        try:
            found |= dict.fromkeys(certificates((path,), str(path), loosely=True))
        except ConfigError:
            continue
    return list(found)


def _crl_issuers(path: Path) -> Iterator[CanonicalName]:
    try:
        for part in split_crls(read_bounded(path, MAX_CRL_OCTETS)):
            yield canonical(open_crl(part).issuer_der)
    except (OSError, CRLRefused):
        return  # whoever reads it to use it says what is wrong


# --- files ----------------------------------------------------------------------------------------------------


def _root_keys(ca: CAConfig | None) -> list[Path]:
    if ca is None:
        return []
    retired = sorted(ca.directory_path.glob("retired-roots/*/root.key"))
    return [ca.directory_path / "root.key", *retired]


def _of_root_keys(beside: Iterable[Path]) -> Iterator[Problem]:
    for path in dict.fromkeys(beside):
        if path.is_file() and not names_hsm_key(path):
            yield Problem(
                str(path),
                "is the key of a root, beside the service: who takes this host can make any certificate, for ever",
                "Move it offline, in two copies; only a change of the issuing CA or of the root needs it",
            )


def _of_modes(
    secret: Mapping[str, Sequence[Path]],
    ca: CAConfig | None,
    public: Iterable[tuple[str, Sequence[Path]]],
) -> Iterator[Problem]:
    files = dict(secret)
    directories: dict[str, list[Path]] = {}
    if ca is not None:
        files["ca.directory_path"] = sorted(ca.directory_path.glob("**/*.key"))
        below = sorted(path for path in ca.directory_path.glob("**/*") if path.is_dir())
        directories["ca.directory_path"] = [ca.directory_path, *below]
        if ca.checkpoints_path is not None:
            directories["ca.checkpoints_path"] = [ca.checkpoints_path.parent]
        if ca.ledger_path is not None:
            ledger = ca.ledger_path
            files["ca.ledger_path"] = [
                ledger.with_name(ledger.name + suffix) for suffix in _LEDGER_SUFFIXES
            ]
            directories["ca.ledger_path"] = [ledger.parent]
    for setting, paths in files.items():
        for path in paths:
            if (mode := _mode(path)) & (stat.S_IRWXG | stat.S_IRWXO):
                yield Problem(
                    setting,
                    f"{path} has mode {stat.S_IMODE(mode):04o}: others than its owner can open it",
                    f"Run: chmod 600 {shlex.quote(str(path))}",
                )
    for path, setting in {
        path: name for name, paths in directories.items() for path in paths
    }.items():
        if (mode := _mode(path)) & (stat.S_IWGRP | stat.S_IWOTH):
            yield _writable(setting, path, mode, "replace what is in it")
    if ca is not None:
        for path in sorted(ca.directory_path.glob("**/*.pem")):
            if (mode := _mode(path)) & (stat.S_IWGRP | stat.S_IWOTH):
                yield _writable("ca.directory_path", path, mode, "replace the CA's certificate")
    for setting, read in public:
        for path in read:
            if (mode := _mode(path)) & stat.S_IWOTH:
                yield _writable(setting, path, mode, "decide who is let in")


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


# --- dates ----------------------------------------------------------------------------------------------------


def _of_expiry(
    read: Iterable[tuple[str, Sequence[Path]]], now: datetime, soon: timedelta = EXPIRES_SOON
) -> Iterator[Problem]:
    for setting, paths in read:
        yield from _expiring(setting, _readable(paths), now, soon)


def _expiring(
    setting: str, found: Iterable[Certificate], now: datetime, soon: timedelta
) -> Iterator[Problem]:
    for item in found:
        until = f"{item.not_after:%Y-%m-%d %H:%M} UTC"
        if now > item.not_after:
            what = f"{item.subject} expired at {until}: nobody accepts what rests on it"
        elif now < item.not_before:
            what = f"{item.subject} is valid only from {item.not_before:%Y-%m-%d %H:%M} UTC"
        elif item.not_after - now < soon:
            what = f"{item.subject} expires in {(item.not_after - now).days} days, at {until}"
        else:
            continue
        yield Problem(
            setting, what, "Give the certificate that follows it; roots may stand beside each other"
        )


def of_ca_expiry(ca: CAConfig, now: datetime) -> Iterator[Problem]:
    """Yield which of the bundled CA's own certificates somebody has to renew, the CRL of its root among them.

    Args:
        now: Aware UTC.
    """
    try:
        from ra_gateway.ca.keys import expiries  # the extra `ca`

        found = expiries(ca.directory_path)
    except (ConfigError, ModuleNotFoundError):
        return  # whoever starts the CA says what is wrong
    for item in found:
        if item.not_after - now < CA_EXPIRES_SOON:
            until = f"{item.not_after:%Y-%m-%d %H:%M} UTC"
            left = f"expires in {(item.not_after - now).days} days, at {until}"
            yield Problem(
                "ca.directory_path",
                f"{item.file}, {item.subject}, {left if now <= item.not_after else f'expired at {until}'}",
                "Run: ra-gateway ca renew-signers, ca roll-issuing, ca roll-root, ca cross-sign or ca root-crl",
            )


def _of_crls(config: GatewayConfig, now: datetime) -> Iterator[Problem]:
    """Yield which CRLs in files are over, or soon will be: nobody but whoever put them there can renew them."""
    tables = {f"vendors.{name}": vendor.revocation for name, vendor in config.vendors.items()}
    for where, revocation in {"operator": config.operator.revocation, **tables}.items():
        for path in revocation.crl_paths if revocation.mode is not Mode.off else ():
            for issuer_der, content in _crls(path):
                if content.next_update is None:
                    continue
                left = content.next_update - now
                life = content.next_update - content.this_update
                if left >= min(CA_EXPIRES_SOON, life / 4):
                    continue
                until = f"{content.next_update:%Y-%m-%d %H:%M} UTC"
                over = f"was good until {until}: nobody can tell whether a certificate is revoked"
                yield Problem(
                    f"{where}.revocation.crl_paths",
                    f"{path}, the CRL of {readable(issuer_der)}, "
                    f"{over if left < timedelta() else f'is good until {until} only'}",
                    "Put the next one there by renaming; or have it fetched, by crl_urls",
                )


def _crls(path: Path) -> Iterator[tuple[bytes, CRLContent]]:
    try:
        for part in split_crls(read_bounded(path, MAX_CRL_OCTETS)):
            opened = open_crl(part)
            yield opened.issuer_der, decode_crl(opened)
    except (OSError, ValueError, CRLRefused, MalformedMessage):
        return  # whoever reads it to use it says what is wrong


def _vendor_paths(vendors: Mapping[str, VendorConfig]) -> Iterator[tuple[str, Sequence[Path]]]:
    for name, vendor in vendors.items():
        yield f"vendors.{name}.anchors_paths", vendor.anchors_paths
        yield f"vendors.{name}.intermediates_paths", vendor.intermediates_paths


def _tls_paths(
    tables: Mapping[str, ListenerTLSConfig | None],
) -> Iterator[tuple[str, Sequence[Path]]]:
    for setting, table in tables.items():
        if table is not None:
            yield f"{setting}.certificate_path", (table.certificate_path,)
            yield f"{setting}.client_ca_paths", table.client_ca_paths


def _certificate_paths(config: GatewayConfig) -> Iterator[tuple[str, Sequence[Path]]]:
    yield "ra.certificate_path", (config.ra.certificate_path,)
    yield "ra.chain_paths", config.ra.chain_paths
    yield "operator.anchors_paths", config.operator.anchors_paths
    yield "operator.intermediates_paths", config.operator.intermediates_paths
    yield from _vendor_paths(config.vendors)
    for name, upstream in config.upstreams.items():
        yield f"upstreams.{name}.issuing_ca_paths", upstream.issuing_ca_paths
        if isinstance(upstream, AnswerTrust):
            yield f"upstreams.{name}.ca_certificate_paths", upstream.ca_certificate_paths
    for name, endpoint in config.endpoints.items():
        if (relays := endpoint.registration_authorities) is not None:
            setting = f"endpoints.{name}.registration_authorities"
            yield f"{setting}.anchors_paths", relays.anchors_paths
            yield f"{setting}.certificate_paths", relays.certificate_paths
            for index, named in enumerate(relays.names):
                yield f"{setting}.names[{index}].issuer_paths", named.issuer_paths
