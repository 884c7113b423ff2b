"""From the configuration of an upstream to what the gateway asks for certificates."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from ra_gateway.app.credential import check_ra_credential, load_ra_credential
from ra_gateway.app.trust import anchors, certificates, counts_known, operator_domain
from ra_gateway.clocks import now
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.errors import ConfigError, Problem
from ra_gateway.ra.endpoints import Upstream
from ra_gateway.ra.ports import CACore
from ra_gateway.ra.settings import CertConf, IssuingSettings, UpstreamSettings, Variant
from ra_gateway.upstream.batching import BatchingCA, BatchSettings
from ra_gateway.upstream.kinds import (
    BundledUpstream,
    CMPHTTPUpstream,
    RemoteUpstream,
    UpstreamConfig,
)
from ra_gateway.upstream.metered import MeteredCA
from ra_gateway.upstream.plugins import UpstreamContext
from ra_gateway.upstream.signing import CertificateSigner, SigningCA
from ra_gateway.upstream.tables import AnswerTrust


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
        made = config.open(UpstreamContext(name, f"upstreams.{name}", now))
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
    # The operator's root speaks by the same CAs, wherever it is named.
    only_known = counts_known(roots, operator)
    domain = TrustDomain(
        name, DomainKind.operator, roots, operator.intermediates, only_known=only_known
    )
    return domain, pinned


def sent_to_cas(config: GatewayConfig) -> list[str]:
    """Return, a sentence for each CA elsewhere that speaks CMP, which certificates go along with what the RA signs.

    Raises:
        ConfigError: Files that the configuration names cannot be used.
    """
    operator = operator_domain(config)
    credential = load_ra_credential(config.ra)
    root = check_ra_credential(credential, operator)[-1]
    chain = [item.subject for item in (credential.certificate, *credential.chain)]
    told = []
    for name, table in config.upstreams.items():
        if not isinstance(table, UpstreamSettings) or isinstance(table, BundledUpstream):
            continue
        sent, left_out = chain, f"; not the root {root.subject}, unless upstreams.{name}.send_root"
        if isinstance(table, CMPHTTPUpstream) and table.mac is not None:
            told.append(
                f"upstream {name} is sent no certificates: a shared secret protects what goes up."
            )
            continue
        if table.send_root:
            sent, left_out = [*chain, root.subject], ""
        told.append(f"upstream {name} is sent the certificates of {'; '.join(sent)}{left_out}.")
    return told


def metered(upstream: Upstream) -> Upstream:
    """Return an upstream whose exchanges are counted."""
    return replace(upstream, core=MeteredCA(upstream.core))


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
        credential=lambda: upstream.signing(credential()),
        clock=now,
        random_octets=secrets.token_bytes,
    )
    return replace(upstream, core=core)


def _require_signing_settings(name: str, config: RemoteUpstream) -> None:
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
