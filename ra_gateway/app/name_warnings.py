"""Whether the bundled CA is going to certify names that rules make or allow, or that are registered: said before
anybody asks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

from ra_gateway.app.profiles import ca_profiles, grantable
from ra_gateway.app.trust import certificates
from ra_gateway.ca.clauses import faults
from ra_gateway.ca.profiles import ALL_KEY_KINDS, Profile
from ra_gateway.ca.tbs import complete, plan_tbs
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.identity import fill
from ra_gateway.cmp.names import NULL_DN, from_rfc4514, general_names_der, split_general_names
from ra_gateway.cmp.oids import OID
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.config.tables import EndpointConfig, GatewayConfig, IdentityConfig
from ra_gateway.errors import CMPError, ConfigError, Problem, TemplateRefused
from ra_gateway.ra.settings import InventoryUse, SubjectRule
from ra_gateway.stores import inventory, secrets
from ra_gateway.stores.rows import Row, read_rows

_TODO: Final = (
    "Write names as the CA certifies them; or change ca.domains, ca.organisations or ca.profile"
)

_MOST_LINES: Final = 100
"""Lines of a file that are looked at: names that are wrong are so in most of them."""

_OF_DOMAINS: Final = "T1"
_OF_FORM: Final = "T8"


class Certifier:
    """What the bundled CA says of names, by each of its profiles.

    Args:
        ca: Its tables.

    Raises:
        ConfigError: The profiles, or the issuing CA's certificate, cannot be used.
    """

    def __init__(self, ca: CAConfig) -> None:
        self._issuing = certificates((ca.directory_path / "issuing.pem",), "ca.directory_path")[0]
        profiles = ca_profiles(ca)
        self._profiles = {name: _for_names(profiles[name]) for name in grantable(profiles)}
        self.unasked = (next(iter(profiles)), *ca.profiles)
        """The default profile and the operator's own: what devices of a vendor get."""

    def refusal(self, subject: str, names: Sequence[str], profiles: Collection[str] = ()) -> str:
        """Return why names are certified under no profile, "" where one takes them.

        Args:
            subject: RFC 4514, with placeholders and wildcards perhaps; filled in with what suits the CA best.
            names: Such as "dns:enb1.example.net", likewise; asked for all at once.
            profiles: Which ones count; all by default.
        """
        found: list[TemplateRefused] = []
        for name in profiles or self._profiles:
            error = self._of_one(self._profiles[name], subject, names)
            if error is None:
                return ""
            found.append(error)
        why = dict.fromkeys(error.detail for error in found if error.rule == _OF_DOMAINS)
        return "; ".join(why) or found[0].detail

    def elsewhere(self, subjects: Sequence[str], sans: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield which patterns allow only names in other domains or under another O than the CA's, and why."""
        for subject in subjects:
            if why := self.elsewhere_of(subject, []):
                yield subject, why
        for san in sans:
            reasons = [self.elsewhere_of(subject, [san]) for subject in subjects]
            if reasons and all(reasons):
                yield san, reasons[0]

    def elsewhere_of(self, subject: str, names: Sequence[str] = ()) -> str:
        """Return why names are not the operator's own under any profile that has such a subject, "" if they are."""
        found: dict[str, None] = {}
        for profile in self._profiles.values():
            for asked in self._samples(profile, subject, names):
                said = list(
                    faults(
                        profile,
                        self._issuing,
                        subject_der=asked.subject_der or NULL_DN,
                        spki_der=self._issuing.spki_der,
                        purposes=profile.purposes,
                        san_der=asked.extensions[0].value if asked.extensions else None,
                        nf_types_der=None,
                    )
                )
                if any(fault.rule == _OF_FORM for fault in said):
                    continue
                mine = [fault.text for fault in said if fault.rule == _OF_DOMAINS]
                if not mine:
                    return ""
                found |= dict.fromkeys(mine)
        return "; ".join(found)

    def _of_one(
        self, profile: Profile, subject: str, names: Sequence[str]
    ) -> TemplateRefused | None:
        refused = None
        for asked in self._samples(profile, subject, names):
            try:
                plan_tbs(profile, complete(profile, asked), self._issuing, self._issuing.not_before)
            except TemplateRefused as error:
                refused = error
            except CMPError:
                return None  # of the CA itself: told elsewhere
            else:
                return None
        return refused

    def _samples(
        self, profile: Profile, subject: str, names: Sequence[str]
    ) -> Iterator[CertTemplate]:
        """Yield names, filled in with what suits a profile; none where nobody knows, as of an address of a word."""
        domain = next(iter(profile.domains), "example.net")
        for cn in (f"x1.{domain}", "x1"):
            values = {"fqdn": f"x1.{domain}", "c": "DE", "dc": "x1", "cn": cn}
            values["o"] = next(iter(profile.organisations), "x1")
            try:
                subject_der = from_rfc4514(_sample(subject, values))
                san_der = general_names_der([_sample(name, values) for name in names])
            except ValueError:
                return
            san = (Extension(OID.subjectAltName, False, san_der),) if names else ()
            yield CertTemplate(
                subject_der=subject_der, spki_der=self._issuing.spki_der, extensions=san
            )


def _for_names(profile: Profile) -> Profile:
    """Return a profile that refuses for nothing but names."""
    return replace(
        profile,
        key_kinds=ALL_KEY_KINDS,
        stronger_keys=True,
        nf_types_required=False,
        crl_required=False,
    )


def _sample(text: str, values: Mapping[str, str]) -> str:
    filled = fill(text, lambda name: values.get(name, "x1"))
    return re.sub(r"\[[^]]*\]", "x", filled.replace("*", "x1").replace("?", "x"))


def _certifier(config: GatewayConfig) -> tuple[Certifier | None, set[str]]:
    """Return what the bundled CA says, None where there is none to ask, and the names of upstreams that are it."""
    bundled = {name for name, item in config.upstreams.items() if item.kind == "bundled"}
    if config.ca is None or not bundled:
        return None, bundled
    try:
        return Certifier(config.ca), bundled
    except ConfigError:
        return None, bundled  # whoever starts the CA says what is wrong


# --- rules ------------------------------------------------------------------------------------------------------


def of_names_to_issue(config: GatewayConfig) -> Iterator[Problem]:
    """Yield which rules make or allow only names that the bundled CA is not going to certify, and which lines do.

    Each template and pattern is filled in with what suits the CA best, so that what is told is told for certain: of a
    vendor's, that the default profile and all of `[ca.profiles]` refuse what comes of it; of another RA's, that no
    profile lets anybody have a name in that domain.
    """
    certifier, bundled = _certifier(config)
    if certifier is None:
        return
    for setting, identity in _identities(config, bundled):
        why = _refused(identity, certifier)
        if why:
            what = (
                f"makes or allows only names that {certifier.unasked[0]} of the bundled CA refuses"
            )
            yield Problem(setting, f"{what}: {why}", _TODO)
    for name, endpoint in config.endpoints.items():
        relays = endpoint.registration_authorities
        if relays is None or not _upstreams(endpoint) <= bundled:
            continue
        where = f"endpoints.{name}.registration_authorities"
        bounds = [
            (where, relays.allowed_subjects, relays.allowed_sans),
            *(
                (f"{where}.rights[{index}]", item.allowed_subjects, item.allowed_sans)
                for index, item in enumerate(relays.rights)
            ),
            *(
                (f"{where}.names[{index}]", item.allowed_subjects, item.allowed_sans)
                for index, item in enumerate(relays.names)
            ),
        ]
        for setting, subjects, sans in bounds:
            for pattern, why in certifier.elsewhere(subjects, sans):
                what = f'allows "{pattern}", which the bundled CA refuses: {why}'
                yield Problem(setting, what, _TODO)
    yield from _of_lines(config, certifier, bundled)


def _upstreams(endpoint: EndpointConfig) -> set[str]:
    return {endpoint.upstream, *(route.upstream for route in endpoint.routes)}


def _identities(
    config: GatewayConfig, bundled: Collection[str]
) -> Iterator[tuple[str, IdentityConfig]]:
    """Yield identity rules whose requests go to the bundled CA and nowhere else, and where they stand."""
    for name, endpoint in config.endpoints.items():
        for index, route in enumerate(endpoint.routes):
            if route.identity is not None and route.upstream in bundled:
                yield f"endpoints.{name}.routes[{index}].identity", route.identity
    for name, vendor in config.vendors.items():
        upstreams = _of_vendor(config, name)
        if vendor.enabled and upstreams and upstreams.issubset(bundled):
            yield f"vendors.{name}.identity", vendor.identity


def _of_vendor(config: GatewayConfig, vendor: str) -> set[str]:
    """Return the upstreams that devices of a vendor may be sent to."""
    ways = [item for item in config.endpoints.values() if vendor in item.vendors]
    return {name for item in ways for name in _upstreams(item)}


def _refused(identity: IdentityConfig, certifier: Certifier) -> str:
    """Return why all profiles refuse every name that identity rules may give, "" where one may be certified."""
    if identity.inventory is not InventoryUse.none:
        return ""  # names stand there
    subjects = [identity.subject_template] if identity.subject_template else []
    if identity.subject is not SubjectRule.replace:
        subjects += identity.allowed_subjects
    # What is put in stands for all names; else a device asks for one that is allowed, or for none.
    ways = (
        [identity.san_template]
        if identity.san_template
        else [(item,) for item in identity.allowed_sans]
    )
    ways = ways if identity.san_template else [*ways, ()]
    reasons = [
        certifier.refusal(subject, names, [profile])
        for profile in certifier.unasked
        for subject in subjects
        for names in ways
    ]
    return reasons[0] if reasons and all(reasons) else ""


# --- lines of files ---------------------------------------------------------------------------------------------


def _of_lines(
    config: GatewayConfig, certifier: Certifier, bundled: Collection[str]
) -> Iterator[Problem]:
    """Yield the first line of the inventory, and of each file of shared secrets, whose names the bundled CA refuses."""
    if config.inventory is not None and config.inventory.csv_path is not None:
        served = _served(config, bundled)
        rows = _rows(config.inventory.csv_path, inventory.COLUMNS)
        mine = (row for row in rows if row.values["domain"] in served)
        yield from _first(_named(config.inventory.csv_path, mine), certifier)
    for endpoint in config.endpoints.values():
        if endpoint.mac is not None and _upstreams(endpoint).issubset(bundled):
            path = endpoint.mac.secrets_path
            yield from _first(_named(path, _rows(path, secrets.COLUMNS)), certifier)


def of_devices(config: GatewayConfig, devices: Iterable[inventory.Listed]) -> Iterator[Problem]:
    """Yield the first device of a list, wherever it is from, whose names the bundled CA is not going to certify."""
    certifier, bundled = _certifier(config)
    if certifier is None:
        return
    served = _served(config, bundled)
    named = (
        (item.where, item.entry.subject, item.entry.san)
        for item in devices
        if item.domain in served and item.entry.enabled
    )
    yield from _first(named, certifier)


def _served(config: GatewayConfig, bundled: Collection[str]) -> set[str]:
    """Return the vendors whose devices come to the bundled CA and to no other."""
    return {name for name in config.vendors if _of_vendor(config, name).issubset(bundled)}


def _named(path: Path, rows: Iterator[Row]) -> Iterator[tuple[str, str, Sequence[str]]]:
    for row in rows:
        if row.values.get("enabled", "").lower() != "false":
            names = split_general_names(row.values["san"])
            yield f"{path}:{row.line}", row.values["subject"], names


def _first(
    named: Iterable[tuple[str, str, Sequence[str]]], certifier: Certifier
) -> Iterator[Problem]:
    for where, subject, names in islice(named, _MOST_LINES):
        if not subject:
            continue
        # Without names there, others decide whether it has any.
        why = certifier.refusal(subject, names) if names else certifier.elsewhere_of(subject)
        if why:
            what = f"has names that the bundled CA refuses, and lines after it may: {why}"
            yield Problem(where, what, _TODO)
            return


def _rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    try:
        for row in read_rows(path, columns):
            if isinstance(row, Row):
                yield row
    except ConfigError:
        return  # whoever loads it to use it says what is wrong
