"""The certificate profiles of the bundled CA: the built-in ones as configured, and those of the operator's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from ra_gateway.ca.derivation import derive
from ra_gateway.ca.profiles import PROFILES, Profile
from ra_gateway.ca.records import DEFAULT_PROFILE, Role
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.errors import ConfigError, Problem

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
    if lacks_crl_url(default):
        served = config.status is not None
        publish = "[ca.status] serves it: " if served else "To have it served, add [ca.status]; "
        raise ConfigError.of(
            "ca.crl_url",
            f"is not set, and {default.name} issues nothing without a CRL distribution point (TS 33.310 6.1.3)",
            f"{publish}set it to where verifiers find the CRL, like "
            '"http://HOST:8082/crl/{issuer}.crl"; or choose a looser ca.profile, of your own, with '
            "crl_required = false",
        )
    profiles = {default.name: default, **profiles}
    problems = [*_of_renewals(config, profiles)]
    if problems:
        raise ConfigError(problems)
    return profiles


def grantable(profiles: Mapping[str, Profile]) -> list[str]:
    """Return the names of profiles that may be asked for: none whose keys speak for the PKI."""
    return [name for name, profile in profiles.items() if not profile.is_privileged]


def lacks_crl_url(profile: Profile) -> bool:
    """Tell whether a profile issues nothing, since no URL of a CRL is set (TS 33.310 6.1.3)."""
    return profile.crl_required and not profile.crl_urls


def unusable(
    profiles: Mapping[str, Profile],
    roles: Iterable[Role],
    recorded: Iterable[str],
    config: CAConfig,
) -> Iterator[Problem]:
    """Yield which roles, and which living certificates, have a profile that issues nothing for want of a CRL's URL.

    Args:
        profiles: As of `ca_profiles`.
        recorded: Names of the profiles that living certificates were issued under.
    """
    default = next(iter(profiles))
    silent = {name for name, profile in profiles.items() if lacks_crl_url(profile)}
    for role in roles:
        for name in silent.intersection(role.profiles):
            yield Problem(
                f"role {role.name}",
                f"has the profile {name}, which issues nothing without a CRL distribution point (TS 33.310 6.1.3)",
                f"Set ca.crl_url; or give the role another profile, such as {default}: "
                f"ra-gateway ca role add {role.name} --profile {DEFAULT_PROFILE}, with the privileges that it has",
            )
    for name in sorted(silent.intersection(recorded) - config.renew_as.keys()):
        yield Problem(
            "ca.renew_as",
            f"lacks {name}: certificates that were issued under it are not renewed, since it issues nothing without a "
            "CRL distribution point (TS 33.310 6.1.3)",
            f'Set ca.crl_url; or renew_as = {{ {name} = "{default}" }}',
        )


def _of_renewals(config: CAConfig, profiles: Mapping[str, Profile]) -> Iterator[Problem]:
    for old, new in config.renew_as.items():
        where = f"ca.renew_as.{old}"
        unknown = [name for name in (old, new) if name not in profiles]
        if unknown:
            todo = f"Choose among {', '.join(profiles)}"
            yield Problem(where, f"there is no profile {unknown[0]!r}", todo)
        elif profiles[old].is_privileged or profiles[new].is_privileged:
            yield Problem(
                where,
                f"{old if profiles[old].is_privileged else new} is for the PKI's own keys, which nobody renews by kur",
                "Name profiles of end entities; `ra-gateway ca profiles` lists them",
            )
        elif lacks_crl_url(profiles[new]):
            yield Problem(
                where,
                f"{new} issues nothing without a CRL distribution point (TS 33.310 6.1.3)",
                "Set ca.crl_url, or name a profile with crl_required = false",
            )


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
