"""From the configuration to what the pipeline reads (`ra_gateway.ra.endpoints`): endpoints, routes, upstreams."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ra_gateway.app.general_messages import information
from ra_gateway.app.trust import anchors, certificates, counts_known
from ra_gateway.app.upstreams import answer_trust, upstream_settings
from ra_gateway.clocks import now
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import Possession
from ra_gateway.cmp.header_checks import RELAYED, HeaderRules
from ra_gateway.cmp.mac import MACBounds
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.config.tables import (
    EndpointConfig,
    GatewayConfig,
    IdentityConfig,
    MACConfig,
    RegistrationAuthoritiesConfig,
    RouteConfig,
)
from ra_gateway.errors import ConfigError
from ra_gateway.ra.endpoints import Endpoint, MACAccess, Route, Upstream
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.ports import CACore, CASecret
from ra_gateway.ra.registration import RARights, RegisteredName, RegistrationAuthorities
from ra_gateway.ra.transaction import RELAYED_DOMAIN
from ra_gateway.stores.secrets import SecretFile
from ra_gateway.upstream.kinds import UpstreamConfig


def _identity(config: IdentityConfig, *, enabled: bool) -> IdentityRules:
    return IdentityRules(**dict(config), enabled=enabled)


def upstream_of(
    name: str,
    config: UpstreamConfig,
    core: CACore,
    operator: TrustDomain,
    credential: Credential,
    own: Callable[[], Collection[Certificate]],
    secret: CASecret | None,
) -> Upstream:
    """Return an upstream.

    Args:
        credential: The RA's, which says whom messages are addressed to.
        own: Returns the RA's own certificates, whichever are current.
        secret: What the RA shares with the CA.
    """
    setting = f"upstreams.{name}"
    recipient = (
        credential.certificate.issuer_der
        if config.recipient is None
        else from_rfc4514(config.recipient)
    )
    trust, pinned = answer_trust(name, config, core, operator)
    issuing = operator
    if config.issuing_ca_paths:
        issuing = TrustDomain(
            name,
            DomainKind.operator,
            certificates(config.issuing_ca_paths, f"{setting}.issuing_ca_paths"),
            operator.intermediates,
        )
    return Upstream(
        name=name,
        core=core,
        recipient_der=directory_name(recipient),
        trust=trust,
        issuing=issuing,
        settings=upstream_settings(config),
        pinned=pinned,
        deadline_seconds=config.deadline_seconds,
        replays_repeats=config.replays_repeats,
        late_answer_seconds=getattr(config, "awaits_late_seconds", 0.0),
        own=own,
        secret=secret,
    )


def _route(
    name: str,
    config: RouteConfig,
    upstreams: Mapping[str, Upstream],
) -> Route:
    return Route(
        name=name,
        upstream=upstreams[config.upstream],
        profiles=frozenset(config.profiles),
        cert_profiles=frozenset(config.cert_profiles),
        domains=frozenset(config.domains),
        body_types=frozenset(config.body_types),
        subjects=config.subjects,
        identity=None if config.identity is None else _identity(config.identity, enabled=True),
        approval=config.approval,
    )


def secret_files_of(
    config: GatewayConfig, before: Mapping[str, SecretFile]
) -> dict[str, SecretFile]:
    """Return the shared secrets of each endpoint that has some, by its name.

    Args:
        before: Those that they take the place of.

    Raises:
        ConfigError: A file cannot be used.
    """
    return {
        name: _secret_file(name, endpoint.mac, before, config.server.workers)
        for name, endpoint in config.endpoints.items()
        if endpoint.mac is not None
    }


def _secret_file(
    name: str, config: MACConfig, before: Mapping[str, SecretFile], workers: int
) -> SecretFile:
    """Return the secrets of an endpoint, which go on from those of before: from the same files, under whatever name."""
    files = before.values()
    same = [item for item in files if item.used_path and item.used_path == config.used_path]
    same = same or [item for item in files if item.path == config.secrets_path]
    return SecretFile(
        config.secrets_path,
        before=same[0] if same else before.get(name),
        clock=now,
        used_path=config.used_path,
        # Who guesses comes to any of the workers, each of which counts what came to it.
        lockout_failures=-(-config.lockout_failures // workers),
        lockout_seconds=config.lockout_seconds,
    )


def _mac(name: str, config: MACConfig, secret_file: SecretFile, operator: TrustDomain) -> MACAccess:
    return MACAccess(
        # A colon, which no vendor's name has: transactions are kept by the name.
        TrustDomain(
            f"mac:{name}",
            DomainKind.shared_secrets,
            (),
            algorithms=operator.algorithms,
            quirks=frozenset(config.quirks),
        ),
        secret_file,
        MACBounds(
            config.min_iterations,
            config.max_iterations,
            config.max_pbkdf_iterations,
            config.allow_weak_hmac,
            config.allow_weak_owf,
        ),
    )


def relays_of(
    name: str, config: RegistrationAuthoritiesConfig, operator: TrustDomain
) -> RegistrationAuthorities:
    """Return the RAs that may stand before an endpoint.

    Args:
        name: Of the endpoint.

    Raises:
        ConfigError: Their certificates cannot be used.
    """
    setting = f"endpoints.{name}.registration_authorities"
    own = anchors(config.anchors_paths, f"{setting}.anchors_paths")
    return RegistrationAuthorities(
        TrustDomain(
            f"{RELAYED_DOMAIN}{name}",
            DomainKind.registration_authority,
            own or operator.anchors,
            operator.intermediates,
            operator.algorithms,
            RELAYED,
            "" if own else operator.name,
            only_known=counts_known(own or operator.anchors, operator),
        ),
        frozenset(certificates(config.certificate_paths, f"{setting}.certificate_paths")),
        IdentityRules(allowed_subjects=config.allowed_subjects, allowed_sans=config.allowed_sans),
        ra_verified=config.ra_verified,
        revoke_on_behalf=config.revoke_on_behalf,
        nested=config.nested,
        batch_max=config.batch_max,
        rights=_rights(setting, config),
        names=_registered_names(setting, config),
    )


def _registered_names(
    setting: str, config: RegistrationAuthoritiesConfig
) -> tuple[RegisteredName, ...]:
    return tuple(
        RegisteredName(
            b"" if row.subject is None else from_rfc4514(row.subject),
            row.sans,
            frozenset(certificates(row.issuer_paths, f"{setting}.names[{index}].issuer_paths")),
            RARights(
                IdentityRules(allowed_subjects=row.allowed_subjects, allowed_sans=row.allowed_sans),
                row.ra_verified,
                row.revoke_on_behalf,
            ),
        )
        for index, row in enumerate(config.names)
    )


def _reserved(config: GatewayConfig) -> tuple[RegisteredName, ...]:
    """Return the names of registered RAs: who had a certificate with one at some endpoint could use it at another."""
    return tuple(
        name
        for endpoint, table in config.endpoints.items()
        if (relays := table.registration_authorities) is not None
        for name in _registered_names(f"endpoints.{endpoint}.registration_authorities", relays)
    )


def _rights(setting: str, config: RegistrationAuthoritiesConfig) -> dict[Certificate, RARights]:
    registered = frozenset(certificates(config.certificate_paths, f"{setting}.certificate_paths"))
    rights: dict[Certificate, RARights] = {}
    for index, row in enumerate(config.rights):
        where = f"{setting}.rights[{index}].certificate_paths"
        own = RARights(
            IdentityRules(allowed_subjects=row.allowed_subjects, allowed_sans=row.allowed_sans),
            row.ra_verified,
            row.revoke_on_behalf,
        )
        for certificate in certificates(row.certificate_paths, where):
            if certificate not in registered or certificate in rights:
                what = "is listed twice" if certificate in rights else "is no registered RA's"
                todo = f"List it once here, and in {setting}.certificate_paths"
                raise ConfigError.of(where, f"{certificate.subject} {what}", todo)
            rights[certificate] = own
    return rights


def _endpoint(
    name: str,
    config: EndpointConfig,
    gateway: GatewayConfig,
    upstreams: Mapping[str, Upstream],
    vendors: Mapping[str, TrustDomain],
    operator: TrustDomain,
    access: Mapping[str, MACAccess],
    reserved: tuple[RegisteredName, ...],
    own: Callable[[], Collection[Certificate]],
) -> Endpoint:
    return Endpoint(
        name=name,
        upstream=upstreams[config.upstream],
        vendors=tuple(vendors[vendor] for vendor in config.vendors),
        identities={
            vendor: _identity(
                gateway.vendors[vendor].identity, enabled=gateway.vendors[vendor].enabled
            )
            for vendor in config.vendors
        },
        vendor_types={
            vendor: frozenset(gateway.vendors[vendor].body_types) for vendor in config.vendors
        },
        operator=operator if config.operator else None,
        body_types=frozenset(config.body_types),
        settings=config,
        rules=HeaderRules(
            strictness=config.strictness,
            message_time_window_seconds=config.message_time_window_seconds,
            require_message_time=config.require_message_time,
            extra_certs_max_count=config.extra_certs_max_count,
        ),
        information=information(config.genm, f"endpoints.{name}.genm", operator, own),
        routes=tuple(
            _route(f"endpoints.{name}.routes[{index}]", route, upstreams)
            for index, route in enumerate(config.routes)
        ),
        accepted=frozenset(
            possession
            for possession, taken in (
                (Possession.key_generation, config.key_generation),
                (Possession.encr_cert, config.encrypted_certificates),
            )
            if taken
        ),
        reserved=reserved,
        mac=access.get(name),
        origins=(*vendors.values(), *(item.domain for item in access.values())),
        origin_subjects={
            vendor: table.operator_subjects for vendor, table in gateway.vendors.items()
        },
        registration_authorities=(
            None
            if config.registration_authorities is None
            else relays_of(name, config.registration_authorities, operator)
        ),
    )


def endpoints_of(
    config: GatewayConfig,
    upstreams: Mapping[str, Upstream],
    vendors: Mapping[str, TrustDomain],
    operator: TrustDomain,
    secret_files: Mapping[str, SecretFile],
    own: Callable[[], Collection[Certificate]],
) -> dict[str, Endpoint]:
    """Return all endpoints by name.

    Args:
        secret_files: Of those that have some (`secret_files_of`).
        own: Returns the RA's own certificates, whichever are current.

    Raises:
        ConfigError: Files that a table names cannot be used.
    """
    reserved = _reserved(config)
    access = {
        name: _mac(name, endpoint.mac, secret_files[name], operator)
        for name, endpoint in config.endpoints.items()
        if endpoint.mac is not None
    }
    return {
        name: _endpoint(name, endpoint, config, upstreams, vendors, operator, access, reserved, own)
        for name, endpoint in config.endpoints.items()
    }
