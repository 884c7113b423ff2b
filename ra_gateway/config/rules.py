"""What several values must be together: rules over the raw tables, each of which yields problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel

from ra_gateway.cmp.quirks import SIGNERS_ONLY, VENDORS_ONLY
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.config.raw import Raw, Rule, exceeds, rows_of, table_of, value_of
from ra_gateway.config.service_tables import GatewayServerConfig, ServerConfig, StoreConfig
from ra_gateway.config.tables import (
    EndpointConfig,
    IdentityConfig,
    MACConfig,
    default_body_types,
)
from ra_gateway.config.trust_tables import AlgorithmsConfig
from ra_gateway.config.upstream_rules import UPSTREAM_RULES
from ra_gateway.config.values import OPERATOR_DOMAIN, WELL_KNOWN_PATH, served_paths, texts
from ra_gateway.errors import Problem
from ra_gateway.ldap import is_dn
from ra_gateway.peers import is_local
from ra_gateway.ra.dialects import DIALECTS
from ra_gateway.settings.values import did_you_mean
from ra_gateway.upstream.kinds import TABLES


def _listed(table: Raw, key: str) -> Iterator[tuple[int, Any]]:
    """Return index and value of what a raw list holds; nothing if it is no list."""
    found = table.get(key)
    return enumerate(found if isinstance(found, list) else ())


def _domains(raw: Raw) -> Iterator[tuple[str, Raw]]:
    """Yield dotted path and table of each trust domain."""
    yield "operator", table_of(raw, "operator")
    for name, vendor in rows_of(raw, "vendors"):
        yield f"vendors.{name}", vendor


def _taken(endpoint: Raw) -> set[str]:
    """Return the raw `body_types` of an endpoint, or what it takes without."""
    strictness = value_of(endpoint, EndpointConfig, "strictness")
    return set(texts(endpoint.get("body_types", default_body_types(strictness))))


def _check_inventory(raw: Raw) -> Iterator[Problem]:
    if "inventory" not in raw:
        return
    inventory = table_of(raw, "inventory")
    given = [key for key in ("csv_path", "http", "sql") if key in inventory]
    if not given:
        yield Problem(
            "inventory.csv_path",
            "is missing, and nothing else says where the devices are listed",
            "Name a CSV file, or add the table [inventory.http] or [inventory.sql].",
        )
    if len(given) > 1:
        what = f"is given together with {' and '.join(given[1:])}: there is one list"
        yield Problem(f"inventory.{given[0]}", what, "Keep one of them.")
    sql = table_of(inventory, "sql")
    if "sql" in given and ("sqlite_path" in sql) == ("url_path" in sql):
        yield Problem(
            "inventory.sql.sqlite_path",
            f"and url_path are {'both' if 'sqlite_path' in sql else 'neither'} given: there is one database",
            "Give sqlite_path for SQLite, or url_path for PostgreSQL.",
        )


def _check_audit(raw: Raw) -> Iterator[Problem]:
    audit = table_of(raw, "audit")
    if "audit" in raw and ("sqlite_path" in audit) == ("url_path" in audit):
        yield Problem(
            "audit.sqlite_path",
            f"and url_path are {'both' if 'sqlite_path' in audit else 'neither'} given: there is one database",
            "Give sqlite_path for SQLite, or url_path for PostgreSQL.",
        )


def _check_store(raw: Raw) -> Iterator[Problem]:
    store = table_of(raw, "store")
    given = [key for key in ("redis_url", "redis_url_path") if key in store]
    if store.get("kind") == "redis" and not given:
        yield Problem(
            "store.redis_url_path",
            "is required when kind is redis",
            "Name a file of mode 0600 that holds the URL, or set redis_url without a password.",
        )
    if store.get("kind") == "redis" and not store.get("seal_key_paths"):
        yield Problem(
            "store.seal_key_paths",
            "is required when kind is redis: whoever else can write there could get any certificate",
            "Make a key with `umask 077; openssl rand -hex 32 > seal.key`, the same on all gateways, and write "
            'seal_key_paths = ["seal.key"].',
        )
    if len(given) == 2:
        yield Problem(
            "store.redis_url", "is given together with redis_url_path", "Remove one of the two."
        )


def _check_workers(raw: Raw) -> Iterator[Problem]:
    workers = value_of(table_of(raw, "server"), GatewayServerConfig, "workers")
    if exceeds(workers, 1) and value_of(table_of(raw, "store"), StoreConfig, "kind") == "memory":
        yield Problem(
            "server.workers",
            f'is {workers} with store.kind "memory", which each worker would have for itself: the next message of a '
            "base station may come to another one",
            'Set store.kind to "redis", with redis_url_path and seal_key_paths, or workers to 1.',
        )


def _check_reserved_names(raw: Raw) -> Iterator[Problem]:
    if OPERATOR_DOMAIN in table_of(raw, "vendors"):
        yield Problem(
            f"vendors.{OPERATOR_DOMAIN}",
            "has the name of the operator's own trust domain",
            "Choose another name.",
        )


def _check_identities(raw: Raw) -> Iterator[Problem]:
    for name, vendor in rows_of(raw, "vendors"):
        identity = table_of(vendor, "identity")
        path = f"vendors.{name}.identity"
        subject = value_of(identity, IdentityConfig, "subject")
        inventory = value_of(identity, IdentityConfig, "inventory")
        if (
            subject in ("derive", "replace")
            and inventory != "required"
            and "subject_template" not in identity
        ):
            yield Problem(
                f"{path}.subject_template",
                f"is required when subject is {subject}",
                'Set it, like "CN={cn}.ran.example.net,O=Example", or set inventory to "required".',
            )
        if subject in ("keep", "derive") and not identity.get("allowed_subjects"):
            yield Problem(
                f"{path}.allowed_subjects",
                f"is empty: no device could have what it asks for, and subject is {subject}",
                'List patterns, like "CN=*.example.net,O=Example", or set subject to "replace".',
            )
        if subject == "keep" and "no_subject" in texts(vendor.get("quirks")):
            yield Problem(
                f"{path}.subject",
                "is keep, which refuses a template without subject, but quirks has no_subject",
                'Set it to "derive" with a subject_template, or take no_subject out.',
            )
        if inventory in ("optional", "required") and "inventory" not in raw:
            yield Problem(
                f"{path}.inventory",
                f"is {inventory}, but there is no inventory",
                "Add [inventory] with csv_path, or set this to none.",
            )


def _check_quirks(raw: Raw) -> Iterator[Problem]:
    """Refuse quirks that can forgive nothing where they stand."""
    tables = [("operator.quirks", table_of(raw, "operator"), VENDORS_ONLY)]
    tables += [
        (f"endpoints.{name}.mac.quirks", table_of(endpoint, "mac"), VENDORS_ONLY | SIGNERS_ONLY)
        for name, endpoint in rows_of(raw, "endpoints")
    ]
    for path, table, useless in tables:
        for quirk in sorted(useless & set(texts(table.get("quirks")))):
            yield Problem(
                path,
                f"has {quirk}, which can forgive nothing there",
                "Take it out: it is for vendors' certificates, under vendors.<name>.quirks.",
            )


def _check_references(raw: Raw) -> Iterator[Problem]:
    vendors, upstreams = table_of(raw, "vendors"), table_of(raw, "upstreams")
    for name, endpoint in rows_of(raw, "endpoints"):
        for index, vendor in _listed(endpoint, "vendors"):
            yield from _unknown(f"endpoints.{name}.vendors[{index}]", "vendor", vendor, vendors)
        path = f"endpoints.{name}.upstream"
        yield from _unknown(path, "upstream", endpoint.get("upstream"), upstreams)


def _check_routes(raw: Raw) -> Iterator[Problem]:
    upstreams = table_of(raw, "upstreams")
    for name, endpoint in rows_of(raw, "endpoints"):
        vendors, profiles = texts(endpoint.get("vendors")), texts(endpoint.get("profiles"))
        for index, route in _listed(endpoint, "routes"):
            if not isinstance(route, dict):
                continue
            path = f"endpoints.{name}.routes[{index}]"
            yield from _unknown(f"{path}.upstream", "upstream", route.get("upstream"), upstreams)
            for key, known in (("domains", [*vendors, OPERATOR_DOMAIN]), ("profiles", profiles)):
                for text in texts(route.get(key)):
                    if text not in known:
                        yield Problem(
                            f"{path}.{key}",
                            f"{text} is none of this endpoint's, so nothing ever fits",
                            f"Name one of {', '.join(known) or 'none: there are none'}, or add it to the "
                            f"endpoint's {'vendors' if key == 'domains' else 'profiles'}.",
                        )


def _check_genm(raw: Raw) -> Iterator[Problem]:
    for name, endpoint in rows_of(raw, "endpoints"):
        genm, path = table_of(endpoint, "genm"), f"endpoints.{name}.genm"
        roots = [
            key for key in ("old_root_path", "new_root_path", "new_with_old_path") if key in genm
        ]
        if "old_with_new_path" in genm or roots:
            missing = {"old_root_path", "new_root_path", "new_with_old_path"} - set(roots)
            for key in sorted(missing):
                yield Problem(
                    f"{path}.{key}",
                    "is required where an update of the root is told",
                    "Name the file: devices need the old root, the new one, and the new one certified by the old.",
                )
        if genm.get("crl_status_list") == "local" and not genm.get("crl_paths"):
            yield Problem(
                f"{path}.crl_paths",
                'is required when crl_status_list is "local"',
                "Name the CRLs to be told.",
            )


def _check_possession(raw: Raw) -> Iterator[Problem]:
    for name, endpoint in rows_of(raw, "endpoints"):
        if value_of(endpoint, EndpointConfig, "strictness") != "3gpp":
            continue
        for key in ("key_generation", "encrypted_certificates"):
            if endpoint.get(key) is True:
                yield Problem(
                    f"endpoints.{name}.{key}",
                    'contradicts strictness "3gpp": TS 33.310 has keys made on the device, and proved by a signature',
                    'Remove it, or set strictness to "lenient" or "strict".',
                )


def _check_dialects(raw: Raw) -> Iterator[Problem]:
    for name, dialect in rows_of(raw, "dialects"):
        if name in DIALECTS:
            yield Problem(
                f"dialects.{name}",
                "comes with the gateway and cannot be changed",
                f'Give it another name, with base = "{name}".',
            )
        yield from _unknown(f"dialects.{name}.base", "dialect", dialect.get("base"), DIALECTS)
    known = {**DIALECTS, **table_of(raw, "dialects")}
    for name, upstream in rows_of(raw, "upstreams"):
        yield from _unknown(f"upstreams.{name}.dialect", "dialect", upstream.get("dialect"), known)


def _unknown(path: str, noun: str, name: object, known: Raw) -> Iterator[Problem]:
    """Yield what is wrong where a text names none of the known tables."""
    if isinstance(name, str) and name not in known:
        listed = f"known are: {', '.join(known)}" if known else "none is configured"
        yield Problem(
            path,
            f'names the {noun} "{name}", which does not exist',
            f"Add [{noun}s.{name}], or correct the name ({listed}).{did_you_mean(name, known)}",
        )


def _check_endpoints(raw: Raw) -> Iterator[Problem]:
    for name, endpoint in rows_of(raw, "endpoints"):
        path = f"endpoints.{name}"
        operator = value_of(endpoint, EndpointConfig, "operator")
        if not endpoint.get("paths") and not endpoint.get("profiles"):
            yield Problem(
                path, "has no URL", f'Set paths, like ["{WELL_KNOWN_PATH}"], or profiles.'
            )
        others = {"mac", "registration_authorities"} & set(endpoint)
        if operator is False and not endpoint.get("vendors") and not others:
            yield Problem(path, "admits nobody", "List vendors, or set operator to true.")
        for body_type in ("kur", "rr"):
            relayed = "registration_authorities" in endpoint
            if operator is False and not relayed and body_type in texts(endpoint.get("body_types")):
                yield Problem(
                    f"{path}.body_types",
                    f"has {body_type}, which needs an operator certificate, but operator is false",
                    f"Take {body_type} out, or set operator to true.",
                )
        if endpoint.get("genm") and "genm" not in texts(endpoint.get("body_types")):
            yield Problem(
                f"{path}.genm",
                "says who answers genm, but body_types does not have it",
                "Add genm to body_types, or take the table out.",
            )
        if (
            not endpoint.get("vendors")
            and not others
            and texts(endpoint.get("body_types")) == ["ir"]
        ):
            yield Problem(
                f"{path}.vendors",
                "is empty, but ir, which needs a vendor certificate, is all that is accepted",
                "List vendors, or add to body_types.",
            )


def _check_rsa_bits(raw: Raw) -> Iterator[Problem]:
    for path, table in _domains(raw):
        path, algorithms = f"{path}.algorithms", table_of(table, "algorithms")
        yield from _crossed(path, algorithms, AlgorithmsConfig, "min_rsa_bits", "max_rsa_bits")


def _crossed(
    path: str, table: Raw, model: type[BaseModel], least: str, most: str
) -> Iterator[Problem]:
    """Yield what is wrong where a lower bound is above the upper one."""
    if exceeds(value_of(table, model, least), value_of(table, model, most)):
        yield Problem(f"{path}.{least}", f"is above {most}", "Lower it, or raise the other.")


def _check_vendor_types(raw: Raw) -> Iterator[Problem]:
    vendors = table_of(raw, "vendors")
    for name, endpoint in rows_of(raw, "endpoints"):
        taken = _taken(endpoint)
        for vendor in texts(endpoint.get("vendors")):
            allowed = texts(table_of(vendors, vendor).get("body_types", ["ir"]))
            if vendor in vendors and taken & {"cr", "p10cr"} and not taken & {"ir", *allowed}:
                yield Problem(
                    f"vendors.{vendor}.body_types",
                    f"has none of what endpoints.{name} takes, so its devices can have no certificate there",
                    f"Add {' or '.join(sorted(taken & {'cr', 'p10cr'}))} to it, or ir to endpoints.{name}.body_types.",
                )


def _check_ra_rights(raw: Raw) -> Iterator[Problem]:
    for name, endpoint in rows_of(raw, "endpoints"):
        relays = table_of(endpoint, "registration_authorities")
        registered, seen = texts(relays.get("certificate_paths")), set[str]()
        for index, row in _listed(relays, "rights"):
            for file in texts(table_of(row).get("certificate_paths")):
                if file not in registered or file in seen:
                    yield Problem(
                        f"endpoints.{name}.registration_authorities.rights[{index}].certificate_paths",
                        f"has {file}, which {'an earlier row has' if file in seen else 'is no registered RA'}",
                        "Name each of registration_authorities.certificate_paths once at most.",
                    )
                seen.add(file)


def _check_ra_names(raw: Raw) -> Iterator[Problem]:
    bundled = any(upstream.get("kind") == "bundled" for _, upstream in rows_of(raw, "upstreams"))
    revocation = table_of(table_of(raw, "operator"), "revocation").get("mode", "off")
    for name, endpoint in rows_of(raw, "endpoints"):
        if "registration_authorities" not in endpoint:
            continue
        path = f"endpoints.{name}.registration_authorities"
        relays = table_of(endpoint, "registration_authorities")
        rows = list(_listed(relays, "names"))
        if not rows and not relays.get("certificate_paths"):
            yield Problem(
                f"{path}.certificate_paths",
                "is required, unless there are names",
                "List the RAs' certificates, or take the table out.",
            )
        for index, row in rows:
            where = f"{path}.names[{index}]"
            if not table_of(row).get("subject") and not table_of(row).get("sans"):
                yield Problem(where, "names nobody", "Give subject, sans or both.")
        if rows and relays.get("anchors_paths"):
            yield Problem(
                f"{path}.names",
                "is given together with anchors_paths, but only an operator certificate makes an RA by its names",
                "Take anchors_paths out, or give the RAs below those roots an endpoint of their own.",
            )
        listed = table_of(raw, "operator").get("intermediates_paths")
        if not listed and any(not table_of(row).get("issuer_paths") for _, row in rows):
            yield Problem(
                f"{path}.names",
                "is given, and any CA below the operator's root could make such an RA",
                "List the operator's issuing CAs in operator.intermediates_paths, or give issuer_paths.",
            )
        if rows and revocation == "off" and not bundled:
            yield Problem(
                f"{path}.names",
                "is given, but nobody says which certificates of these names were revoked",
                "Set operator.revocation, or list the exact certificates in certificate_paths.",
            )


def _check_mac(raw: Raw) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for name, endpoint in rows_of(raw, "endpoints"):
        if "mac" not in endpoint:
            continue
        path, mac = f"endpoints.{name}.mac", table_of(endpoint, "mac")
        if value_of(endpoint, EndpointConfig, "strictness") == "3gpp":
            yield Problem(
                path,
                'is given, but strictness is "3gpp", and TS 33.310 has no shared secrets',
                'Take the table out, or set strictness to "strict" or "lenient".',
            )
        if not {"ir", "cr", "p10cr"} & _taken(endpoint):
            yield Problem(
                path,
                "is given, but body_types has none of ir, cr and p10cr",
                "Add one to body_types, or take the table out.",
            )
        if "used_path" in mac and table_of(raw, "store").get("kind") == "redis":
            yield Problem(
                f"{path}.used_path",
                "is given, but with the redis store other processes could use a secret again",
                "Use the memory store, or only secrets that are not for single use.",
            )
        for most in ("max_iterations", "max_pbkdf_iterations"):
            yield from _crossed(path, mac, MACConfig, "min_iterations", most)
        for key in ("secrets_path", "used_path"):
            for file in texts([mac.get(key)]):
                place = f"{path}.{key}"
                if (first := owners.setdefault(file, place)) != place:
                    yield Problem(
                        place,
                        f"is the file of {first}",
                        "Give each endpoint files of its own: each counts for itself.",
                    )


def _check_duplicate_urls(raw: Raw) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for name, endpoint in rows_of(raw, "endpoints"):
        for key in ("paths", "profiles"):
            for index, value in _listed(endpoint, key):
                place = f"endpoints.{name}.{key}[{index}]"
                for url_path in served_paths(*(([value], ()) if key == "paths" else ((), [value]))):
                    first = owners.setdefault(url_path, place)
                    if first != place:
                        yield Problem(
                            place,
                            f"stands for {url_path}, which {first} has already",
                            "Remove one of the two.",
                        )


def _check_times(raw: Raw) -> Iterator[Problem]:
    lifetime = value_of(table_of(raw, "store"), StoreConfig, "transaction_lifetime_seconds")
    for name, endpoint in rows_of(raw, "endpoints"):
        window = value_of(endpoint, EndpointConfig, "message_time_window_seconds")
        # From a clock that is ahead by one window to one that is behind by one.
        if isinstance(window, int) and not exceeds(lifetime, 2 * window):
            yield Problem(
                f"endpoints.{name}.message_time_window_seconds",
                "is not less than half of store.transaction_lifetime_seconds: a captured request "
                "could be sent again once it is forgotten",
                "Shorten it, or lengthen the lifetime.",
            )
        if exceeds(value_of(endpoint, EndpointConfig, "confirm_wait_seconds"), lifetime):
            yield Problem(
                f"endpoints.{name}.confirm_wait_seconds",
                "is longer than store.transaction_lifetime_seconds: certConf would come too late",
                "Shorten it, or lengthen the lifetime.",
            )
    ca = table_of(raw, "ca")
    if ca and exceeds(value_of(ca, CAConfig, "confirm_wait_seconds"), lifetime):
        yield Problem(
            "ca.confirm_wait_seconds",
            "is longer than store.transaction_lifetime_seconds: certConf would come too late",
            "Shorten it, or lengthen the lifetime.",
        )
    drain = value_of(table_of(raw, "server"), ServerConfig, "drain_seconds")
    for name, upstream in rows_of(raw, "upstreams"):
        table = TABLES.get(str(upstream.get("kind")))
        if table is None or "deadline_seconds" not in table.model_fields:
            continue
        deadline = value_of(upstream, table, "deadline_seconds")
        if exceeds(deadline, drain):
            yield Problem(
                f"upstreams.{name}.deadline_seconds",
                "is longer than server.drain_seconds: a stop would cut requests off",
                "Shorten it, or lengthen drain_seconds.",
            )
        connecting = "connect_timeout_seconds"
        if connecting in table.model_fields and exceeds(
            value_of(upstream, table, connecting), deadline
        ):
            yield Problem(
                f"upstreams.{name}.connect_timeout_seconds",
                "is longer than deadline_seconds, which ends the whole exchange",
                "Shorten it.",
            )


def _check_approval(raw: Raw) -> Iterator[Problem]:
    redis = value_of(table_of(raw, "store"), StoreConfig, "kind") == "redis"
    for name, endpoint in rows_of(raw, "endpoints"):
        wishes = {f"endpoints.{name}": endpoint}
        for index, route in _listed(endpoint, "routes"):
            wishes[f"endpoints.{name}.routes[{index}]"] = table_of(route)
        for path, table in wishes.items():
            approval = table.get("approval")
            if approval not in ("required", "unlisted"):
                continue
            if not redis:
                yield Problem(
                    f"{path}.approval",
                    "needs the redis store: ra-gateway approvals is a process of its own, and what waits "
                    "has to outlive a restart",
                    'Set store.kind to "redis".',
                )
            if approval == "unlisted" and "inventory" not in raw:
                yield Problem(
                    f"{path}.approval",
                    "holds what the inventory does not list, but there is no [inventory]",
                    'Add the table [inventory], or set it to "required".',
                )


def _check_ledger(raw: Raw) -> Iterator[Problem]:
    ca = table_of(raw, "ca")
    given = [key for key in ("ledger_path", "ledger_url_path", "ledger_url") if key in ca]
    if ca and not given:
        yield Problem(
            "ca.ledger_path",
            "is required, unless ledger_url_path or ledger_url is given",
            "Name a SQLite file, or in ledger_url_path a file with the URL of a PostgreSQL database.",
        )
    if len(given) > 1:
        yield Problem(f"ca.{given[1]}", f"is given together with {given[0]}", "Leave one of them.")


def _check_ca_client(raw: Raw) -> Iterator[Problem]:
    vendors = table_of(raw, "vendors")
    for index, vendor in enumerate(texts(table_of(raw, "ca", "client").get("vendors"))):
        yield from _unknown(f"ca.client.vendors[{index}]", "vendor", vendor, vendors)


def _check_revocation(raw: Raw) -> Iterator[Problem]:
    for where, table in _domains(raw):
        revocation = table_of(table, "revocation")
        learning = [
            key
            for key in ("from_certificates", "ocsp_from_certificates")
            if revocation.get(key) is True
        ]
        if learning and not revocation.get("allowed_hosts"):
            yield Problem(
                f"{where}.revocation.allowed_hosts",
                f"is empty, so that {learning[0]} may fetch nothing",
                f"Name the hosts, or leave {learning[0]} out.",
            )
        named = any(revocation.get(key) for key in ("crl_paths", "crl_urls", "ocsp_url"))
        if revocation.get("mode", "off") != "off" and not (named or learning):
            yield Problem(
                f"{where}.revocation.mode",
                "asks for CRLs or OCSP answers, and none are named",
                'Name them in crl_paths, crl_urls or ocsp_url, or set it to "off".',
            )


def _check_ca_ldap(raw: Mapping[str, Any]) -> Iterator[Problem]:
    ca = table_of(raw, "ca")
    table = table_of(ca, "ldap")
    if not table:
        return
    if not isinstance(ca.get("status"), Mapping):
        yield Problem(
            "ca.ldap", "has no CRLs to publish", "Add the table [ca.status], which has them made."
        )
    entry, url = table.get("entry"), urlsplit(str(table.get("url", "")))
    if isinstance(entry, str):
        if not is_dn(entry.replace("{issuer}", "00")):
            yield Problem(
                "ca.ldap.entry", "is no DN", 'Write it like "cn={issuer},ou=PKI,o=Example".'
            )
        if "{issuer}" not in entry:
            yield Problem(
                "ca.ldap.entry",
                "does not hold {issuer}, so that two issuing CAs would share an entry after a rollover",
                'Write it like "cn={issuer},ou=PKI,o=Example".',
            )
    is_safe = url.scheme == "ldaps" or table.get("start_tls") is True
    if "bind_password_path" in table and not (is_safe or is_local(url.hostname or "")):
        yield Problem(
            "ca.ldap.url",
            "would have the password sent in the clear",
            "Use ldaps, or set start_tls = true.",
        )
    if url.scheme == "ldaps" and table.get("start_tls") is True:
        yield Problem(
            "ca.ldap.start_tls", "is for ldap URLs; ldaps has TLS already", "Leave it out."
        )
    if ("bind_password_path" in table) != ("bind_dn" in table):
        yield Problem(
            "ca.ldap.bind_dn", "and bind_password_path go together", "Set both, or neither."
        )


def _check_proxies(raw: Raw) -> Iterator[Problem]:
    for where in (("server",), ("ca", "server"), ("ca", "status")):
        table, path = table_of(raw, *where), ".".join(where)
        asked = [key for key in ("proxy_protocol", "forwarded_for") if table.get(key) == "on"]
        trusted = table.get("trusted_proxies")
        if asked and not trusted:
            yield Problem(
                f"{path}.{asked[0]}",
                "is on, but no proxy is trusted",
                'List your balancers, like trusted_proxies = ["192.0.2.7"].',
            )
        elif trusted and not asked:
            yield Problem(
                f"{path}.trusted_proxies",
                "would not be asked: neither proxy_protocol nor forwarded_for is on",
                'Set proxy_protocol = "on" where they send a PROXY header, forwarded_for = "on" where they append to '
                "X-Forwarded-For; or leave this out.",
            )


RULES: Final[tuple[Rule, ...]] = (
    _check_inventory,
    _check_audit,
    _check_proxies,
    _check_store,
    _check_workers,
    _check_reserved_names,
    _check_identities,
    _check_quirks,
    _check_references,
    _check_routes,
    _check_dialects,
    _check_possession,
    _check_genm,
    _check_endpoints,
    _check_vendor_types,
    _check_ra_rights,
    _check_ra_names,
    _check_mac,
    _check_rsa_bits,
    _check_duplicate_urls,
    _check_times,
    _check_approval,
    *UPSTREAM_RULES,
    _check_ledger,
    _check_ca_client,
    _check_ca_ldap,
    _check_revocation,
)
"""What is asked of a gateway's file."""

CA_RULES: Final[tuple[Rule, ...]] = (
    _check_proxies,
    _check_reserved_names,
    _check_ledger,
    _check_ca_client,
    _check_ca_ldap,
)
"""What is asked of a file for the bundled CA alone."""
