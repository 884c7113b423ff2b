"""Whether the bundled CA is going to certify the names that vendors' rules make or allow: said before a device asks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from ra_gateway.app.profiles import ca_profiles
from ra_gateway.app.trust import certificates
from ra_gateway.ca.profiles import Profile
from ra_gateway.ca.tbs import complete, plan_tbs
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.identity import fill
from ra_gateway.cmp.names import from_rfc4514, general_names_der
from ra_gateway.cmp.oids import OID
from ra_gateway.config.tables import GatewayConfig, IdentityConfig
from ra_gateway.errors import CMPError, ConfigError, Problem, TemplateRefused
from ra_gateway.ra.policy import InventoryUse, SubjectRule


def of_issuance(config: GatewayConfig) -> Iterator[Problem]:
    """Yield which vendors' names the bundled CA is not going to certify, as far as templates and patterns tell.

    Each template and pattern is filled in with what suits the CA best, so that what is told is told for certain: the
    default profile and all of `[ca.profiles]` refuse what comes of it.
    """
    ca = config.ca
    bundled = {name for name, item in config.upstreams.items() if item.kind == "bundled"}
    if ca is None or not bundled:
        return
    try:
        profiles = ca_profiles(ca)
        issuing = certificates((ca.directory_path / "issuing.pem",), "ca.directory_path")[0]
    except ConfigError:
        return  # whoever starts the CA says what is wrong
    asked = [next(iter(profiles.values())), *(profiles[name] for name in ca.profiles)]
    for setting, identity in _identities(config, bundled):
        why = _refused(identity, asked, issuing)
        if why:
            yield Problem(
                setting,
                f"makes or allows only names that {asked[0].name} of the bundled CA refuses: {why}",
                "Write names as the CA certifies them; or change ca.domains, ca.organisations or ca.profile",
            )


def _identities(
    config: GatewayConfig, bundled: Collection[str]
) -> Iterator[tuple[str, IdentityConfig]]:
    """Yield identity rules whose requests go to the bundled CA and nowhere else, and where they stand."""
    for name, endpoint in config.endpoints.items():
        for index, route in enumerate(endpoint.routes):
            if route.identity is not None and route.upstream in bundled:
                yield f"endpoints.{name}.routes[{index}].identity", route.identity
    for name, vendor in config.vendors.items():
        ways = [item for item in config.endpoints.values() if name in item.vendors]
        upstreams = {item.upstream for item in ways}
        upstreams |= {route.upstream for item in ways for route in item.routes}
        if vendor.enabled and upstreams and upstreams.issubset(bundled):
            yield f"vendors.{name}.identity", vendor.identity


def _refused(identity: IdentityConfig, profiles: Sequence[Profile], issuing: Certificate) -> str:
    """Return why all profiles refuse every name that identity rules may give, "" where one may be certified."""
    if identity.inventory is not InventoryUse.none:
        return ""  # names stand there
    subjects = [identity.subject_template] if identity.subject_template else []
    if identity.subject is not SubjectRule.replace:
        subjects += identity.allowed_subjects
    sans = [*identity.allowed_sans, ""]
    if not subjects:
        return ""
    reasons: list[str] = []
    for profile in profiles:
        for subject in subjects:
            # What is put in stands for all names; else a device asks for one that is allowed, or for none.
            ways = [identity.san_template] if identity.san_template else [(item,) for item in sans]
            for names in ways:
                why = _why_refused(profile, subject, [name for name in names if name], issuing)
                if not why:
                    return ""
                reasons.append(why)
    return reasons[0]


def _why_refused(profile: Profile, subject: str, names: Sequence[str], issuing: Certificate) -> str:
    domain = next(iter(profile.domains), "example.net")
    for cn in (f"x1.{domain}", "x1"):
        values = {"fqdn": f"x1.{domain}", "c": "DE", "dc": "x1", "cn": cn}
        values["o"] = next(iter(profile.organisations), "x1")
        try:
            subject_der = from_rfc4514(_sample(subject, values))
            san_der = general_names_der([_sample(name, values) for name in names])
        except ValueError:
            return ""  # such as an address made of a word: nobody knows
        san = [Extension(OID.subjectAltName, False, san_der)] if names else []
        asked = CertTemplate(
            subject_der=subject_der, spki_der=issuing.spki_der, extensions=tuple(san)
        )
        try:
            plan_tbs(profile, complete(profile, asked), issuing, issuing.not_before)
        except TemplateRefused as error:
            why = error.detail
        except CMPError:
            return ""  # of the CA itself: told elsewhere
        else:
            return ""
    return why


def _sample(text: str, values: Mapping[str, str]) -> str:
    filled = fill(text, lambda name: values.get(name, "x1"))
    return re.sub(r"\[[^]]*\]", "x", filled.replace("*", "x1").replace("?", "x"))
