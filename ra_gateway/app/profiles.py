"""The certificate profiles of the bundled CA: the built-in ones as configured, and those of the operator's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from ra_gateway.ca.derivation import derive
from ra_gateway.ca.profiles import PROFILES, Profile
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.errors import ConfigError

_OF_THE_PKI: Final = frozenset({"ra", "cmp_signer", "ocsp_signer"})
"""Profiles whose validity and names are the PKI's own business, not `ca.validity_days` and `ca.domains`."""


def ca_profiles(config: CAConfig) -> dict[str, Profile]:
    """Return the certificate profiles by name, the default one first.

    Raises:
        ConfigError: There is no such default, or one cannot be used.
    """
    profiles = {name: _with_urls(profile, config) for name, profile in PROFILES.items()}
    for name, own in config.profiles.items():
        base = profiles.get(own.base)
        if base is None:
            raise _no_profile(f"ca.profiles.{name}.base", own.base, PROFILES)
        changes = own.model_dump(exclude={"base"}, exclude_none=True)
        profiles[name] = derive(base, name, **changes)
    if config.profile not in profiles:
        raise _no_profile("ca.profile", config.profile, profiles)
    if profiles[config.profile].is_privileged:
        raise ConfigError.of(
            "ca.profile",
            f"{config.profile} is for the PKI's own keys, not for whoever asks",
            "Choose another one; `ra-gateway ca profiles` lists them",
        )
    default = profiles.pop(config.profile)
    if default.crl_required and not default.crl_urls:
        raise ConfigError.of(
            "ca.crl_url",
            f"is not set, and {default.name} issues nothing without a CRL distribution point (TS 33.310 6.1.3)",
            'Set it to where verifiers find the CRL, like "http://HOST:8082/crl/{issuer}.crl" of [ca.status]; or '
            "choose a looser ca.profile, of your own, with crl_required = false",
        )
    return {default.name: default, **profiles}


def _with_urls(profile: Profile, config: CAConfig) -> Profile:
    if profile.name not in _OF_THE_PKI:
        profile = replace(
            profile,
            validity_days=min(config.validity_days, profile.longest_validity_days),
            domains=config.domains,
            organisations=config.organisations,
        )
    return replace(
        profile,
        crl_urls=(config.crl_url,) if config.crl_url else (),
        delta_crl_url=config.delta_crl_url or "",
        ocsp_url=config.ocsp_url or "",
        ca_issuers_url=config.ca_issuers_url or "",
    )


def _no_profile(setting: str, name: str, known: Iterable[str]) -> ConfigError:
    todo = f"Choose one of {', '.join(known)}"
    return ConfigError.of(setting, f"there is no profile {name!r}", todo)
