"""From the configuration of an upstream to what the gateway asks for certificates."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from ra_gateway.app.running import now
from ra_gateway.app.trust import anchors, certificates
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.config.upstream_tables import (
    AnswerTrust,
    CMPHTTPUpstream,
    OverHTTP,
    PluginUpstream,
    RestUpstream,
    StepCAUpstream,
    UpstreamConfig,
    VaultUpstream,
)
from ra_gateway.errors import ConfigError, Problem
from ra_gateway.keys import load_private_key
from ra_gateway.ra.endpoints import CertConf, IssuingSettings, Upstream, UpstreamSettings, Variant
from ra_gateway.ra.ports import CACore
from ra_gateway.upstream.batching import BatchingCA, BatchSettings
from ra_gateway.upstream.http import Connections
from ra_gateway.upstream.plugins import UpstreamContext, make_plugin
from ra_gateway.upstream.pool import HttpPool
from ra_gateway.upstream.rest import RestClient, RestFields, RestSigner, TokenFile
from ra_gateway.upstream.signing import CertificateSigner, SigningCA
from ra_gateway.upstream.step_ca import Provisioner, StepCASigner
from ra_gateway.upstream.tls import tls_context
from ra_gateway.upstream.vault import VaultSigner

RemoteUpstream = CMPHTTPUpstream | StepCAUpstream | VaultUpstream | RestUpstream | PluginUpstream
"""Every kind but the bundled CA."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Makes `CACore`s.

    Args:
        operator: Vouches for the RA's certificates.
        authorities: Called for those.
    """

    operator: TrustDomain
    authorities: Callable[[], Collection[Certificate]]

    def core(self, name: str, config: RemoteUpstream) -> CACore:
        """Return what an upstream is reached by; nothing is connected yet.

        Raises:
            ConfigError: Files or a plug-in that it names cannot be used.
        """
        if isinstance(config, CMPHTTPUpstream):
            return _http_pool(name, config)
        made = (
            _plugin(name, config) if isinstance(config, PluginUpstream) else _signer(name, config)
        )
        if not isinstance(made, CertificateSigner):
            return made
        _require_signing_settings(name, config)
        return SigningCA(
            name,
            made,
            authorities=self.authorities,
            operator=self.operator,
            clock=now,
            random_octets=secrets.token_bytes,
            issuers=certificates(config.issuing_ca_paths, f"upstreams.{name}.issuing_ca_paths"),
        )


def upstream_settings(config: UpstreamConfig) -> UpstreamSettings:
    """Return how a CA is spoken to: what its table says, or what goes for every CA that only signs."""
    if isinstance(config, UpstreamSettings):
        return config
    of_any = {key: getattr(config, key) for key in IssuingSettings.model_fields}
    return UpstreamSettings(certconf=CertConf.local, genm=False, **of_any)


def answer_trust(
    name: str, config: UpstreamConfig, core: CACore, operator: TrustDomain
) -> tuple[TrustDomain, tuple[Certificate, ...]]:
    """Return what the protection of a core's answers must chain to, and what may protect without that.

    Raises:
        ConfigError: Files that the configuration names cannot be used.
    """
    setting, roots = f"upstreams.{name}", operator.anchors
    if isinstance(core, SigningCA):
        # Its key is ours, and of one kind, whatever algorithms the operator allows others.
        pinned: tuple[Certificate, ...] = (core.certificate,)
    elif isinstance(config, AnswerTrust):
        pinned = certificates(config.ca_certificate_paths, f"{setting}.ca_certificate_paths")
        if not config.trust_anchors_paths:
            return operator, pinned
        roots = anchors(config.trust_anchors_paths, f"{setting}.trust_anchors_paths")
    else:
        return operator, ()
    return TrustDomain(name, DomainKind.operator, roots, operator.intermediates), pinned


def batched(
    config: UpstreamConfig, upstream: Upstream, credential: Callable[[], Credential]
) -> Upstream:
    """Return an upstream whose messages go up in batches, if that is configured.

    Args:
        credential: The RA's; signs the batches.
    """
    if not isinstance(config, CMPHTTPUpstream) or not config.batch_window_ms:
        return upstream
    settings = BatchSettings(
        upstream.name,
        upstream.recipient_der,
        upstream.trust,
        upstream.pinned,
        config.batch_window_ms / 1000.0,
        config.batch_max,
        config.batch_max_bytes,
        (upstream.issuing,),
    )
    core = BatchingCA(
        upstream.core,
        settings,
        credential=credential,
        clock=now,
        random_octets=secrets.token_bytes,
    )
    return replace(upstream, core=core)


def _connections(
    name: str, config: OverHTTP, *urls: str | None, ca_path: Path | None = None
) -> Connections:
    """Return connections for URLs of one CA.

    Args:
        ca_path: Roots that TLS trusts, where the configuration names none; None for the system's.
    """
    context = None
    if any(url is not None and url.lower().startswith("https:") for url in urls):
        context = tls_context(
            f"upstreams.{name}",
            ca_path=config.tls_ca_path or ca_path,
            certificate_path=config.tls_certificate_path,
            key_path=config.tls_key_path,
            key_password_path=config.tls_key_password_path,
        )
    return Connections(
        connect_timeout_seconds=config.connect_timeout_seconds,
        max_response_bytes=config.max_response_bytes,
        max_connections=config.max_connections,
        ssl_context=context,
        proxy=config.proxy,
    )


def _http_pool(name: str, config: CMPHTTPUpstream) -> HttpPool:
    urls = config.every_url
    return HttpPool(
        urls,
        _connections(name, config, *urls),
        order=config.order,
        replays_repeats=config.replays_repeats,
        try_deadline_seconds=config.try_deadline_seconds,
        breaker_failures=config.breaker_failures,
        breaker_seconds=config.breaker_seconds,
        probe_seconds=config.probe_seconds or None,
        clock=now,
    )


# --- CAs that speak no CMP ------------------------------------------------------------------------------------


def _plugin(name: str, config: PluginUpstream) -> CACore | CertificateSigner:
    context = UpstreamContext(name, f"upstreams.{name}.settings", now)
    return make_plugin(config.plugin, config.settings, context)


def _signer(name: str, config: StepCAUpstream | VaultUpstream | RestUpstream) -> CertificateSigner:
    if isinstance(config, StepCAUpstream):
        return _step_ca(name, config)
    if isinstance(config, VaultUpstream):
        return VaultSigner(
            RestClient(config.url, _connections(name, config, config.url)),
            mount=config.mount.removesuffix("/"),
            role=config.role.removesuffix("/"),
            token=TokenFile(config.token_path),
            verbatim=config.verbatim,
            namespace=config.namespace or "",
        )
    connections = _connections(name, config, config.url, config.revoke_url)
    return RestSigner(
        RestClient(config.url, connections),
        RestFields(
            public_key=config.public_key_field,
            subject=config.subject_field,
            san=config.san_field,
            csr=config.csr_field,
            request_id=config.request_id_field,
            certificate=config.certificate_field,
            chain=config.chain_field,
            error=config.error_field,
        ),
        None if config.revoke_url is None else RestClient(config.revoke_url, connections),
        None if config.token_path is None else TokenFile(config.token_path),
    )


def _step_ca(name: str, config: StepCAUpstream) -> StepCASigner:
    setting = f"upstreams.{name}"
    (root, *_) = certificates((config.root_path,), f"{setting}.root_path")
    path = config.provisioner_key_password_path
    provisioner = Provisioner(
        config.provisioner,
        load_private_key(
            config.provisioner_key_path,
            None if path is None else path.read_bytes().rstrip(b"\r\n"),
            f"{setting}.provisioner_key_path",
        ),
        setting=f"{setting}.provisioner_key_path",
        root=root,
        clock=now,
    )
    client = RestClient(
        config.url, _connections(name, config, config.url, ca_path=config.root_path)
    )
    return StepCASigner(client, provisioner)


def _require_signing_settings(
    name: str, config: StepCAUpstream | VaultUpstream | RestUpstream | PluginUpstream
) -> None:
    """Refuse what only a plug-in that speaks CMP itself can do."""
    settings = upstream_settings(config)
    wanted = {
        "certconf": (settings.certconf, CertConf.local),
        "kur": (settings.kur, Variant.reprotect),
        "requests": (settings.requests, Variant.reprotect),
    }
    problems = [
        Problem(
            f"upstreams.{name}.{key}",
            f'is "{given}", but the plug-in signs keys and reads no CMP',
            f'Set it to "{needed}", or leave it out.',
        )
        for key, (given, needed) in wanted.items()
        if given != needed
    ]
    if problems:
        raise ConfigError(problems)
