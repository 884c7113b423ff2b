"""Rules about who may come besides devices with certificates: other RAs, and who holds a shared secret."""

from __future__ import annotations

from collections.abc import Iterator

from ra_gateway.config.raw import (
    Raw,
    crossed,
    listed_at,
    rows_at,
    table_at,
    types_taken,
    value_at,
)
from ra_gateway.config.tables import EndpointConfig, MACConfig
from ra_gateway.config.values import texts
from ra_gateway.errors import Problem


def check_ra_rights(raw: Raw) -> Iterator[Problem]:
    """Yield where rights are given to RAs that are not registered, or twice."""
    for name, endpoint in rows_at(raw, "endpoints"):
        relays = table_at(endpoint, "registration_authorities")
        registered, seen = texts(relays.get("certificate_paths")), set[str]()
        for index, row in listed_at(relays, "rights"):
            for file in texts(table_at(row).get("certificate_paths")):
                if file not in registered or file in seen:
                    yield Problem(
                        f"endpoints.{name}.registration_authorities.rights[{index}].certificate_paths",
                        f"has {file}, which {'an earlier row has' if file in seen else 'is no registered RA'}",
                        "Name each of registration_authorities.certificate_paths once at most.",
                    )
                seen.add(file)


def check_ra_names(raw: Raw) -> Iterator[Problem]:
    """Yield where nobody is registered, or by a name that cannot be relied upon."""
    bundled = any(upstream.get("kind") == "bundled" for _, upstream in rows_at(raw, "upstreams"))
    revocation = table_at(table_at(raw, "operator"), "revocation").get("mode", "off")
    for name, endpoint in rows_at(raw, "endpoints"):
        if "registration_authorities" not in endpoint:
            continue
        path = f"endpoints.{name}.registration_authorities"
        relays = table_at(endpoint, "registration_authorities")
        rows = list(listed_at(relays, "names"))
        if not rows and not relays.get("certificate_paths"):
            yield Problem(
                f"{path}.certificate_paths",
                "is required, unless there are names",
                "List the RAs' certificates, or take the table out.",
            )
        for index, row in rows:
            where = f"{path}.names[{index}]"
            if not table_at(row).get("subject") and not table_at(row).get("sans"):
                yield Problem(where, "names nobody", "Give subject, sans or both.")
        if rows and relays.get("anchors_paths"):
            yield Problem(
                f"{path}.names",
                "is given together with anchors_paths, but only an operator certificate makes an RA by its names",
                "Take anchors_paths out, or give the RAs below those roots an endpoint of their own.",
            )
        if rows and revocation == "off" and not bundled:
            yield Problem(
                f"{path}.names",
                "is given, but nobody says which certificates of these names were revoked",
                "Set operator.revocation, or list the exact certificates in certificate_paths.",
            )


def check_mac(raw: Raw) -> Iterator[Problem]:
    """Yield where shared secrets stand at endpoints that cannot take them, or files serve two of them."""
    owners: dict[str, str] = {}
    for name, endpoint in rows_at(raw, "endpoints"):
        if "mac" not in endpoint:
            continue
        path, mac = f"endpoints.{name}.mac", table_at(endpoint, "mac")
        if value_at(endpoint, EndpointConfig, "strictness") == "3gpp":
            yield Problem(
                path,
                'is given, but strictness is "3gpp", and TS 33.310 has no shared secrets',
                'Take the table out, or set strictness to "strict" or "lenient".',
            )
        if not {"ir", "cr", "p10cr"} & types_taken(endpoint):
            yield Problem(
                path,
                "is given, but body_types has none of ir, cr and p10cr",
                "Add one to body_types, or take the table out.",
            )
        if "used_path" in mac and table_at(raw, "store").get("kind") == "redis":
            yield Problem(
                f"{path}.used_path",
                "is given, but with the redis store other processes could use a secret again",
                "Use the memory store, or only secrets that are not for single use.",
            )
        for most in ("max_iterations", "max_pbkdf_iterations"):
            yield from crossed(path, mac, MACConfig, "min_iterations", most)
        for key in ("secrets_path", "used_path"):
            for file in texts([mac.get(key)]):
                place = f"{path}.{key}"
                if (first := owners.setdefault(file, place)) != place:
                    yield Problem(
                        place,
                        f"is the file of {first}",
                        "Give each endpoint files of its own: each counts for itself.",
                    )
