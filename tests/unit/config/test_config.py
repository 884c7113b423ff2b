"""The configuration file: examples load, and whatever is wrong is said with its place and a remedy."""

from __future__ import annotations

import re
import runpy
import traceback
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from ra_gateway.cmp import algorithms, quirks
from ra_gateway.cmp.codes import BodyType
from ra_gateway.config.reading import load, load_ca, parse
from ra_gateway.config.tables import EndpointConfig, GatewayConfig
from ra_gateway.config.values import (
    DEFAULT_SIGNATURES,
    CurveName,
    SignatureName,
)
from ra_gateway.errors import ConfigError, Problem
from ra_gateway.settings.meanings import meaning
from tests.support.configurations import TABLES, written

ROOT = Path(__file__).parents[3]
PRODUCTION = ROOT / "config/gateway.production.toml"
DEVELOPMENT = ROOT / "config/gateway.development.toml"

POOL = '[upstreams.main]\nkind = "cmp_http"\nurls = ["http://a/cmp", "https://b/cmp"]'
CA_SECRET = '\n[upstreams.main.mac]\nreference = "r"\nsecret_path = "s"'
CA = '[ca]\ndirectory_path = "ca"\nledger_path = "ledger.sqlite"'
CA_ON_POSTGRESQL = '[ca]\ndirectory_path = "ca"\nledger_url = "postgresql://ca@db/ledger"'
PUBLIC_FILES = ("ra.pem", "root.pem", "acme.pem", "ca/root.pem", "ca/issuing.pem", "ca/cmp.pem")
SECRET_FILES = ("ra.key", "ca/issuing.key", "ca/cmp.key")


def adding(table: str, settings: str, more: str = "", **replaced: str) -> str:
    """Return a valid configuration with settings added to one of its tables; the rest is as of `written`."""
    return written(more, **{table: f"{TABLES[table]}\n{settings}", **replaced})


def problems(text: str, directory: Path = Path("/nowhere"), **options: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        parse(text, directory=directory, **({"check_files": False} | options))
    return caught.value.problems


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with every file the configurations here name."""
    (tmp_path / "ca").mkdir()
    for name in PUBLIC_FILES + SECRET_FILES:
        (tmp_path / name).write_text("material")
        (tmp_path / name).chmod(0o600 if name in SECRET_FILES else 0o644)
    return tmp_path


# --- What is right --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [PRODUCTION, DEVELOPMENT], ids=lambda path: path.stem)
def test_examples_load(path: Path) -> None:
    load(path, check_files=False)


def test_a_complete_site_loads_with_its_files(site: Path) -> None:
    path = site / "gateway.toml"
    path.write_text(written(CA, upstream='[upstreams.main]\nkind = "bundled"'))
    loaded = load(path)
    assert loaded.has_bundled_upstream
    assert loaded.ra.key_path == site / "ra.key"
    assert loaded.operator.anchors_paths == (site / "root.pem",)
    assert loaded.vendors["acme"].algorithms.signatures == DEFAULT_SIGNATURES
    assert loaded.ca is not None
    assert loaded.ca.server.listen_port == 8081


def test_relative_paths_start_at_the_files_directory_even_if_given_relatively(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "gateway.toml").write_text(written())
    monkeypatch.chdir(site.parent)
    loaded = load(Path(site.name, "gateway.toml"))
    assert loaded.ra.certificate_path == site / "ra.pem"


def test_the_ca_alone_needs_none_of_the_gateways_tables(site: Path) -> None:
    (site / "ca.toml").write_text(CA)
    assert load_ca(site / "ca.toml").ca.database == site / "ledger.sqlite"
    (site / "both.toml").write_text(written(CA, operator="[operator]\nnonsense = 1"))
    assert load_ca(site / "both.toml").ca.directory_path == site / "ca"
    (site / "bad.toml").write_text("cs = 1\n" + CA + "\nunique_key = 1")
    with pytest.raises(ConfigError) as caught:
        load_ca(site / "bad.toml")
    assert [problem.path for problem in caught.value.problems] == [
        "ca.unique_key",
        "cs",
    ]


def test_url_paths_hold_the_profiles_and_no_slash_at_the_end() -> None:
    endpoint = EndpointConfig(
        paths=("/.well-known/cmp", "/pkix/", "/"), profiles=("ran",), upstream="main"
    )
    assert endpoint.url_paths == ("/.well-known/cmp", "/pkix", "/", "/.well-known/cmp/p/ran")


def test_models_cannot_be_changed() -> None:
    loaded = parse(written(), directory=Path("/nowhere"), check_files=False)
    with pytest.raises(ValidationError):
        loaded.server.listen_port = 1  # type: ignore[misc]


def test_names_are_those_of_the_cmp_core() -> None:
    known = set(algorithms.SIGNATURE_ALGORITHMS) | algorithms.LEGACY_ALGORITHMS
    assert set(get_args(SignatureName)) == known
    assert set(DEFAULT_SIGNATURES) == algorithms.DEFAULT_ALGORITHMS
    assert set(get_args(CurveName)) == algorithms.DEFAULT_CURVES
    assert set(quirks.QUIRKS) == set(quirks.Quirk)


# --- The documents --------------------------------------------------------------------------------


def all_fields(model: type[BaseModel]) -> set[tuple[str, str]]:
    """Return (key, description) of every field of a model and of the models in it."""
    found: set[tuple[str, str]] = set()
    for name, field in model.model_fields.items():
        found.add((name, meaning(model, name)))
        todo = [field.annotation]
        while todo:
            annotation = todo.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                found |= all_fields(annotation)
            else:
                todo.extend(get_args(annotation))
    return found


def test_every_key_says_what_it_is() -> None:
    assert [name for name, description in all_fields(GatewayConfig) if not description] == []


def test_every_limit_says_its_unit_and_where_its_default_comes_from() -> None:
    unit = {"_seconds": "seconds", "_bytes": "bytes", "_days": "days", "_bits": "bits"}
    for name, description in all_fields(GatewayConfig):
        suffix = next((suffix for suffix in unit if name.endswith(suffix)), None)
        if suffix:
            assert unit[suffix] in description, name
        if suffix or name.startswith("max_") or name.endswith("_count"):
            assert "default" in description, name


def test_the_reference_is_up_to_date() -> None:
    generator = runpy.run_path(str(ROOT / "docs/configuration_reference.py"))
    expected = generator["reference"]()
    assert (ROOT / "docs/configuration.md").read_text() == expected, (
        "run: python docs/configuration_reference.py > docs/configuration.md"
    )


def test_the_production_example_shows_every_key() -> None:
    text = PRODUCTION.read_text()
    keys = re.findall(r"^[# ]*([a-z0-9_]+) =", text, re.MULTILINE)
    tables = re.findall(r"^[# ]*\[+([a-z_.]+)\]", text, re.MULTILINE)
    shown = {*keys, *(part for table in tables for part in table.split("."))}
    assert {name for name, _ in all_fields(GatewayConfig)} - shown == set()


def test_keys_behind_a_hash_in_the_production_example_show_their_defaults() -> None:
    text = PRODUCTION.read_text()
    uncommented = re.sub(r'^#(?=[a-z]|\]|    ")', "", text, flags=re.MULTILINE)
    assert uncommented.count("\n#") < text.count("\n#") - 30
    directory = PRODUCTION.parent
    assert parse(uncommented, directory=directory, check_files=False) == parse(
        text, directory=directory, check_files=False
    )


def test_the_bundled_ca_of_the_production_example_is_valid(tmp_path: Path) -> None:
    _, block = PRODUCTION.read_text().split("# --- The bundled CA", 1)
    lines = re.findall(r"^#   (.*)$", block, re.MULTILINE)
    vendor = TABLES["vendor"]  # of the example's upper part
    (tmp_path / "ca.toml").write_text("\n".join([vendor, *lines]))
    assert load_ca(tmp_path / "ca.toml", check_files=False).ca.validity_days == 365


@pytest.mark.requirement(142, "T31")
@pytest.mark.parametrize(
    "settings, taken",
    [
        ("", {BodyType.ir, BodyType.kur}),
        ('strictness = "3gpp"', {BodyType.ir, BodyType.kur}),
        ('strictness = "lenient"', {BodyType.ir, BodyType.cr, BodyType.kur}),
        ('strictness = "strict"', {BodyType.ir, BodyType.cr, BodyType.kur}),
        ('body_types = ["ir", "cr"]', {BodyType.ir, BodyType.cr}),
    ],
)
def test_what_opens_a_transaction_follows_the_strictness(
    settings: str, taken: set[BodyType]
) -> None:
    """TS 33.310 9.5.1 has enrolment and key update alone, unless configured."""
    text = adding("endpoint", settings)
    config = parse(text, directory=Path("/nowhere"), check_files=False)
    assert set(config.endpoints["ran"].body_types) == taken


# --- What is wrong --------------------------------------------------------------------------------

IDENTITY = "[vendors.acme.identity]\n"
MAC = '[endpoints.ran.mac]\nsecrets_path = "secrets.csv"'
OTHER_ENDPOINT = (
    TABLES["endpoint"].replace("endpoints.ran", "endpoints.two").replace("cmp", "cmp/p/2")
    + '\nstrictness = "strict"'
)
REDIS = '[store]\nkind = "redis"\nredis_url = "redis://localhost"\nseal_key_paths = ["seal.key"]'
REGISTERED = '[endpoints.ran.registration_authorities]\ncertificate_paths = ["a.pem"]'
REGISTERED_NAME = '[[endpoints.ran.registration_authorities.names]]\nsubject = "CN=occm"\nissuer_paths = ["a.pem"]'
REVOKED = '[operator.revocation]\nmode = "hard"\ncrl_paths = ["a.crl"]\n'
RIGHTS = '\n[[endpoints.ran.registration_authorities.rights]]\ncertificate_paths = ["a.pem"]'
WRONG = {
    "unknown key": (adding("server", "listen_prot = 80"),
        "server.listen_prot", "not a known key", 'Did you mean "listen_port"?'),
    "unknown key like no other": (written("[log]\nzzz = 1"),
        "log.zzz", "not a known key", "Known here are: format, level"),
    "unknown table": (written("[vendor]"), "vendor", "not a known key", '"vendors"'),
    "unknown key of an upstream": (adding("upstream", "deadline = 3"),
        "upstreams.main.deadline", "not a known key", '"deadline_seconds"'),
    "file key without its ending": (written(vendor='[vendors.acme]\nanchors_paths = ["a"]\nintermediates = []'),
        "vendors.acme.intermediates", "given by file", "intermediates_paths"),
    "text for a number": (adding("server", 'listen_port = "8080"'),
        "server.listen_port", "must be a whole number, not a text", "Write a whole number (default: 8080)"),
    "number for a truth value": (adding("endpoint", "operator = 1"),
        "endpoints.ran.operator", "must be true or false, not a whole number", "Write true or false"),
    "truth value for a number": (adding("server", "drain_seconds = true"),
        "server.drain_seconds", "must be a number", "Write a number (default: 30)"),
    "text for a list": (written(operator='[operator]\nanchors_paths = "root.pem"'),
        "operator.anchors_paths", "must be a list", "Write a list in square brackets"),
    "number for a path": (written(vendor='[vendors.acme]\nanchors_paths = ["a", 3]'),
        "vendors.acme.anchors_paths[1]", "must be a", "in quotes"),
    "number for a table": (written(server="server = 3"), "server", "must be a table", "Write"),
    "below its range": (adding("server", "max_body_bytes = 10"),
        "server.max_body_bytes", "must be at least 4096", "Raise it (default: 65536)"),
    "zero time": (adding("server", "idle_timeout_seconds = 0"),
        "server.idle_timeout_seconds", "must be more than 0", "Raise it"),
    "above its range": (adding("server", "listen_port = 70000"),
        "server.listen_port", "must be at most 65535", "Lower it"),
    "infinite time": (adding("server", "drain_seconds = inf"),
        "server.drain_seconds", "must be a number", "default: 30"),
    "missing key": (written(ra='[ra]\ncertificate_path = "ra.pem"'),
        "ra.key_path", "is required", "Add it. Its private key"),
    "missing table": (written(operator=""), "operator", "is required", "Add it"),
    "no trust": (written(operator="[operator]\nanchors_paths = []"),
        "operator.anchors_paths", "must not be empty", "Fill it. Operator root"),
    "unknown choice": (adding("store", 'kind = "radis"'),
        "store.kind", "not one of the values", 'Use one of: memory, redis. Did you mean "redis"?'),
    "unknown algorithm": (written('[vendors.acme.algorithms]\nsignatures = ["ecdsa-sha-256"]'),
        "vendors.acme.algorithms.signatures[0]", "not one of the values", 'Did you mean "ecdsa-sha256"?'),
    "unknown quirk": (adding("vendor", 'quirks = ["short_id"]'),
        "vendors.acme.quirks[0]", "not one of the values", 'Did you mean "short_ids"?'),
    "quirk that forgives operator certificates nothing": (
        written(operator=TABLES["operator"] + '\nquirks = ["sha1", "rsa1024"]'),
        "operator.quirks", "has rsa1024, which can forgive nothing there", "vendors.<name>.quirks"),
    "placeholder where nothing fills it": (adding("vendor", 'operator_subjects = ["CN={cn}"]'),
        "vendors.acme.operator_subjects[0]", "has a placeholder", "Write * in its place"),
    "quirk that forgives a MAC nothing": (
        written(MAC + '\nquirks = ["missing_extracerts_in_certconf"]',
            endpoint=TABLES["endpoint"] + '\nstrictness = "strict"'),
        "endpoints.ran.mac.quirks", "has missing_extracerts_in_certconf", "Take it out"),
    "unknown kind of upstream": (written(upstream='[upstreams.main]\nkind = "cmphttp"'),
        "upstreams.main.kind", "not one of the values", 'Did you mean "cmp_http"?'),
    "upstream without URL": (written(upstream='[upstreams.main]\nkind = "cmp_http"'),
        "upstreams.main.url", "is required", "urls"),
    "upstream with url and urls": (adding("upstream", 'urls = ["http://b/cmp"]'),
        "upstreams.main.urls", "is given together with url", "Remove one"),
    "upstream with the same URL twice": (written(upstream=POOL.replace("https://b", "http://a")),
        "upstreams.main.urls[1]", "is there already", "Remove one"),
    "tries longer than all": (written(upstream=POOL + "\ntry_deadline_seconds = 16"),
        "upstreams.main.try_deadline_seconds", "is longer than deadline_seconds", "Shorten it"),
    "breaker too long": (written(upstream=POOL + "\nbreaker_seconds = 61"),
        "upstreams.main.breaker_seconds", "at most 60", "default: 5"),
    "client certificate without key": (written(upstream=POOL + '\ntls_certificate_path = "ra.pem"'),
        "upstreams.main.tls_certificate_path", "is given without tls_key_path", "tls_key_path"),
    "TLS without https": (adding("upstream", 'tls_ca_path = "root.pem"'),
        "upstreams.main.tls_ca_path", "no URL is https", "https://"),
    "proxy with more than an address": (adding("upstream", 'proxy = "http://p:3128/x"'),
        "upstreams.main.proxy", "more than the address", "http://proxy.example.net:3128"),
    "upstream without kind": (written(upstream="[upstreams.main]"),
        "upstreams.main.kind", "is required", '"cmp_http"'),
    "impossible name": (written('[vendors."a b"]\nanchors_paths = ["a"]\nidentity.allowed_subjects = ["*"]'),
        "vendors.a b", "not a possible name", "Use letters"),
    "vendor called operator": (written('[vendors.operator]\nanchors_paths = ["a"]\nidentity.allowed_subjects = ["*"]'),
        "vendors.operator", "the operator's own trust domain", "Choose another name"),
    "unknown vendor": (written(endpoint=TABLES["endpoint"].replace('"acme"', '"acme", "acne"')),
        "endpoints.ran.vendors[1]", 'names the vendor "acne", which does not exist', 'Did you mean "acme"?'),
    "unknown upstream": (written(endpoint=TABLES["endpoint"].replace('"main"', '"other"')),
        "endpoints.ran.upstream", 'names the upstream "other", which does not exist', "known are: main"),
    "path served twice": (written('[endpoints.b]\npaths = ["/x", "/.well-known/cmp/"]\nupstream = "main"'),
        "endpoints.b.paths[1]", "stands for /.well-known/cmp, which endpoints.ran.paths[0] has already", "Remove one"),
    "profile served twice": (
        written('[endpoints.b]\nprofiles = ["p"]\npaths = ["/.well-known/cmp/p/p"]\nupstream = "main"'),
        "endpoints.b.profiles[0]", "which endpoints.b.paths[0] has already", "Remove one"),
    "not a path": (written(endpoint=TABLES["endpoint"].replace('"/.well', '"http://h/.well')),
        "endpoints.ran.paths[0]", "not the path part of a URL", "a slash first"),
    "endpoint without URL": (written('[endpoints.b]\nupstream = "main"'),
        "endpoints.b", "has no URL", "Set paths"),
    "endpoint for nobody": (written('[endpoints.b]\npaths = ["/b"]\noperator = false\nupstream = "main"'),
        "endpoints.b", "admits nobody", "List vendors"),
    "rr for vendor certificates": (adding("endpoint", 'operator = false\nbody_types = ["ir", "rr"]'),
        "endpoints.ran.body_types", "has rr, which needs an operator certificate", "Take rr out"),
    "answers to a genm that is not taken": (written('[endpoints.ran.genm]\nca_certs = "local"'),
        "endpoints.ran.genm", "body_types does not have it", "Add genm to body_types"),
    "a genm that the RA cannot answer": (
        adding("endpoint", 'body_types = ["ir", "genm"]', '[endpoints.ran.genm]\nothers = "local"'),
        "endpoints.ran.genm.others", "not one of the values", "forward, deny"),
    "shared secrets in the 3gpp profile": (written(MAC),
        "endpoints.ran.mac", "TS 33.310 has no shared secrets", "strictness"),
    "shared secrets without a request for them": (
        adding("endpoint", 'strictness = "strict"\nbody_types = ["kur"]', MAC),
        "endpoints.ran.mac", "none of ir, cr and p10cr", "body_types"),
    "secrets for single use on several nodes": (
        adding("endpoint", 'strictness = "strict"', MAC + '\nused_path = "used"', store=REDIS),
        "endpoints.ran.mac.used_path", "could use a secret again", "memory store"),
    "bounds of iterations the wrong way round": (
        adding("endpoint", 'strictness = "strict"', MAC + "\nmax_iterations = 99"),
        "endpoints.ran.mac.min_iterations", "above max_iterations", "Lower it"),
    "bounds of RSA keys the wrong way round": (
        written("[operator.algorithms]\nmin_rsa_bits = 4096\nmax_rsa_bits = 3072"),
        "operator.algorithms.min_rsa_bits", "above max_rsa_bits", "Lower it"),
    "one file of secrets for two endpoints": (
        adding("endpoint", 'strictness = "strict"', "\n".join([MAC, OTHER_ENDPOINT, MAC.replace("ran", "two")])),
        "endpoints.two.mac.secrets_path", "is the file of endpoints.ran.mac.secrets_path", "of its own"),
    "revocation without a source": (written('[vendors.acme.revocation]\nmode = "hard"'),
        "vendors.acme.revocation.mode", "none are named", "crl_urls"),
    "URLs of certificates from anywhere": (written('[operator.revocation]\nmode = "soft"\nfrom_certificates = true'),
        "operator.revocation.allowed_hosts", "is empty", "Name the hosts"),
    "responders without hosts": (written('[operator.revocation]\nmode = "soft"\nocsp_from_certificates = true'),
        "operator.revocation.allowed_hosts", "ocsp_from_certificates may fetch nothing", "Name the hosts"),
    "a CRL by FTP": (written('[vendors.acme.revocation]\ncrl_urls = ["ftp://x/cn=y"]'),
        "vendors.acme.revocation.crl_urls[0]", "is not a usable URL", "http or https"),
    "an entry for a CRL": (written('[vendors.acme.revocation]\ncrl_urls = ["ldap://x/cn=y"]'),
        "vendors.acme.revocation.crl_urls[0]", "names no attribute", "certificateRevocationList;binary"),
    "a directory without CRLs": (written(CA + '\n[ca.ldap]\nurl = "ldaps://x"\nentry = "cn={issuer},o=x"'),
        "ca.ldap", "no CRLs to publish", "[ca.status]"),
    "one entry for all CAs": (written(CA + '\n[ca.status]\n[ca.ldap]\nurl = "ldaps://x"\nentry = "cn=ca,o=x"'),
        "ca.ldap.entry", "does not hold {issuer}", "cn={issuer}"),
    "an entry that is none": (written(CA + '\n[ca.status]\n[ca.ldap]\nurl = "ldaps://x"\nentry = "{issuer}"'),
        "ca.ldap.entry", "is no DN", "cn={issuer}"),
    "a password in the clear": (written(CA + '\n[ca.status]\n[ca.ldap]\nurl = "ldap://x"\nentry = "cn={issuer},o=x"'
        '\nbind_dn = "cn=a"\nbind_password_path = "p"'),
        "ca.ldap.url", "in the clear", "ldaps"),
    "a password for nobody": (written(CA + '\n[ca.status]\n[ca.ldap]\nurl = "ldaps://x"\nentry = "cn={issuer},o=x"'
        '\nbind_password_path = "p"'),
        "ca.ldap.bind_dn", "go together", "Set both"),
    "TLS in TLS": (written(CA
        + '\n[ca.status]\n[ca.ldap]\nurl = "ldaps://x"\nentry = "cn={issuer},o=x"\nstart_tls = true'),
        "ca.ldap.start_tls", "has TLS already", "Leave it out"),
    "a directory's URL with a DN": (written(CA
        + '\n[ca.status]\n[ca.ldap]\nurl = "ldaps://x/o=x"\nentry = "cn={issuer},o=x"'),
        "ca.ldap.url", "more than the address", "ldaps://"),
    "a URL in place of a host": (written('[vendors.acme.revocation]\nallowed_hosts = ["http://crl.example"]'),
        "vendors.acme.revocation.allowed_hosts[0]", "is not a host", "no scheme"),
    "kur for vendor certificates": (adding("endpoint", 'operator = false\nbody_types = ["ir", "kur"]'),
        "endpoints.ran.body_types", "needs an operator certificate", "Take kur out"),
    "ir without vendors": (written('[endpoints.b]\npaths = ["/b"]\nbody_types = ["ir"]\nupstream = "main"'),
        "endpoints.b.vendors", "needs a vendor certificate", "List vendors"),
    "confirmation after the end": (adding("endpoint", "confirm_wait_seconds = 3601"),
        "endpoints.ran.confirm_wait_seconds", "longer than store.transaction_lifetime_seconds", "Shorten it"),
    "a CA that waits for what is forgotten": (written(CA + "\nconfirm_wait_seconds = 3601"),
        "ca.confirm_wait_seconds", "longer than store.transaction_lifetime_seconds", "lengthen the lifetime"),
    "a captured request that is forgotten": (adding("store", "transaction_lifetime_seconds = 600"),
        "endpoints.ran.message_time_window_seconds", "half of store.transaction_lifetime_seconds",
        "lengthen the lifetime"),
    "a CRL that needs a CRL": (written(CA + '\ncrl_url = "https://pki.example.net/ca.crl"'),
        "ca.crl_url", "not a usable URL", "http://host:port/path"),
    "deadline after the stop": (adding("upstream", "deadline_seconds = 31"),
        "upstreams.main.deadline_seconds", "longer than server.drain_seconds", "lengthen drain_seconds"),
    "connecting after the deadline": (adding("upstream", "deadline_seconds = 2"),
        "upstreams.main.connect_timeout_seconds", "longer than deadline_seconds", "Shorten it"),
    "redis without URL": (adding("store", 'kind = "redis"\nseal_key_paths = ["seal.key"]'),
        "store.redis_url_path", "required when kind is redis", "mode 0600"),
    "redis without a key for sealing": (adding("store", 'kind = "redis"\nredis_url = "redis://localhost"'),
        "store.seal_key_paths", "required when kind is redis", "openssl rand -hex 32"),
    "two Redis URLs": (adding("store", 'redis_url = "redis://h"\nredis_url_path = "u"'),
        "store.redis_url", "together with redis_url_path", "Remove one"),
    "certConf kept from the bundled CA": (
        written(CA, upstream='[upstreams.main]\nkind = "bundled"\ncertconf = "local"'),
        "upstreams.main.certconf", "revokes what is not confirmed", 'certconf = "forward"'),
    "a secret for what is signed": (adding("upstream", 'kur = "nested"' + CA_SECRET),
        "upstreams.main.kur", "is nested", 'Set it to "reprotect"'),
    "a secret for what is signed by a dialect": (adding("upstream", 'dialect = "rfc9483"' + CA_SECRET),
        "upstreams.main.kur", "perhaps by the dialect", 'Set it to "reprotect"'),
    "a secret and batches": (adding("upstream", 'batch_window_ms = 5' + CA_SECRET),
        "upstreams.main.batch_window_ms", "a batch is signed", "Leave one of the two out"),
    "a secret of no CA that is told apart": (
        adding("upstream", '[upstreams.main.mac]\nreference = ""\nsecret_path = "s"'),
        "upstreams.main.mac.reference", "must not be empty", "senderKID"),
    "an ir that stays as it is, as cr": (adding("upstream", 'ir_as_cr = true\nrequests = "nested"'),
        "upstreams.main.ir_as_cr", "stays an ir", 'requests = "reprotect"'),
    "certConf kept from the bundled CA elsewhere": (adding("upstream", 'dialect = "bundled"\ncertconf = "local"'),
        "upstreams.main.certconf", "revokes what is not confirmed", 'certconf = "forward"'),
    "certConf kept from the bundled CA by a dialect": (
        written(CA, upstream='[upstreams.main]\nkind = "bundled"\ndialect = "ejbca-ra"'),
        "upstreams.main.certconf", "revokes what is not confirmed", 'certconf = "forward"'),
    "certConf kept from the bundled CA by a dialect of one's own": (
        written(CA + '\n[dialects.mine]\nbase = "ejbca-ra"',
            upstream='[upstreams.main]\nkind = "bundled"\ndialect = "mine"'),
        "upstreams.main.certconf", "revokes what is not confirmed", 'certconf = "forward"'),
    "vendors that may send nothing": (adding("endpoint", 'body_types = ["p10cr", "rr"]'),
        "vendors.acme.body_types", "has none of what endpoints.ran takes", "Add p10cr"),
    "rights of no RA": (
        written(REGISTERED + RIGHTS.replace("a.pem", "b.pem")),
        "endpoints.ran.registration_authorities.rights[0].certificate_paths", "is no registered RA", "once at most"),
    "rights given twice": (
        written(REGISTERED + RIGHTS + RIGHTS),
        "endpoints.ran.registration_authorities.rights[1].certificate_paths", "an earlier row has", "once at most"),
    "no RA at all": (written("[endpoints.ran.registration_authorities]"),
        "endpoints.ran.registration_authorities.certificate_paths", "unless there are names", "List the RAs'"),
    "an RA without a name": (
        written(REVOKED + REGISTERED_NAME.replace('subject = "CN=occm"', "")),
        "endpoints.ran.registration_authorities.names[0]", "names nobody", "Give subject"),
    "a pattern as the name of an RA": (
        written(REVOKED + REGISTERED_NAME + '\nsans = ["dns:*.example.net"]'),
        "endpoints.ran.registration_authorities.names[0].sans[0]", "is a pattern", "the one name"),
    "an RA by its name of whatever CA": (
        written(REVOKED + REGISTERED_NAME.replace('\nissuer_paths = ["a.pem"]', "")),
        "endpoints.ran.registration_authorities.names", "any CA below the operator's root", "issuer_paths"),
    "an RA by its name whose certificates cannot be withdrawn": (written(REGISTERED_NAME),
        "endpoints.ran.registration_authorities.names", "which certificates of these names were revoked",
        "operator.revocation"),
    "an RA by its name under roots that are not the operator's": (
        written(f'{REVOKED}{REGISTERED}\nanchors_paths = ["a.pem"]\n{REGISTERED_NAME}'),
        "endpoints.ran.registration_authorities.names", "only an operator certificate", "an endpoint of their own"),
    "a path that climbs": (adding("upstream", 'path = "../other"'),
        "upstreams.main.path", "may stand behind a URL", "name"),
    "a path with an empty part": (adding("upstream", 'path = "a//b"'),
        "upstreams.main.path", "may stand behind a URL", "name"),
    "an endpoint's path that climbs": (
        written(endpoint='[endpoints.ran]\npaths = ["/cmp/../ca"]\nvendors = ["acme"]\nupstream = "main"'),
        "endpoints.ran.paths[0]", "not the path part of a URL", "a slash first"),
    "no Redis URL": (adding("store", 'redis_url = "http://h"'),
        "store.redis_url", "not the URL of a Redis", "redis+cluster://host:port,host:port"),
    "Sentinels without a master": (adding("store", 'redis_url = "redis+sentinel://h,h"'),
        "store.redis_url", "does not name what the Sentinels watch", "redis+sentinel://host:port,host:port/master"),
    "no CA URL": (written(upstream='[upstreams.main]\nkind = "cmp_http"\nurl = "ca.example.net:80"'),
        "upstreams.main.url", "not a usable URL", "http://host:port/path"),
    "no recipient": (adding("upstream", 'recipient = "CN=a,b"'),
        "upstreams.main.recipient", "not a distinguished name", "most specific part first"),
    "a pattern without attributes": (written(identity=IDENTITY + 'allowed_subjects = ["{cn}.ran.example.net"]'),
        "vendors.acme.identity.allowed_subjects[0]", "fits no subject: '{cn}.ran", "Write it like"),
    "a pattern of an attribute that is none": (written(identity=IDENTITY + 'allowed_subjects = ["CN={cn},Town=X"]'),
        "vendors.acme.identity.allowed_subjects[0]", "known as 'Town'", "Write it like"),
    "a pattern with slashes": (written(identity=IDENTITY + 'allowed_subjects = ["/CN={cn}/O=X"]'),
        "vendors.acme.identity.allowed_subjects[0]", "known as '/CN'", "Write it like"),
    "a pattern with a comma at its end": (written(identity=IDENTITY + 'allowed_subjects = ["CN={cn},"]'),
        "vendors.acme.identity.allowed_subjects[0]", "is no attribute and value", "Write it like"),
    "a pattern of a network": (adding("identity", 'allowed_sans = ["ip:192.0.2.0/24"]'),
        "vendors.acme.identity.allowed_sans[0]", "written with *, like ip:192.0.2.*", "Write it like"),
    "a pattern of a name with blanks": (adding("identity", 'allowed_sans = ["dns:a b"]'),
        "vendors.acme.identity.allowed_sans[0]", "it has a blank", "Write it like"),
    "a directory name without attributes": (adding("identity", 'allowed_sans = ["dn:enb-*,O"]'),
        "vendors.acme.identity.allowed_sans[0]", "is no attribute and value", "Write it like"),
    "a route's placeholder": (
        adding("endpoint", '[[endpoints.ran.routes]]\nsubjects = ["CN={cn}"]\nupstream = "main"'),
        "endpoints.ran.routes[0].subjects[0]", "which nothing fills in here", "Write * in its place"),
    "no template to derive from": (written(identity=IDENTITY + 'subject = "derive"\nallowed_subjects = ["*"]'),
        "vendors.acme.identity.subject_template", "required when subject is derive", 'set inventory to "required"'),
    "no template to replace by": (written(identity=IDENTITY + 'subject = "replace"'),
        "vendors.acme.identity.subject_template", "required when subject is replace", "Set it, like"),
    "nothing allowed": (written(identity=""),
        "vendors.acme.identity.allowed_subjects", "is empty", "List patterns"),
    "inventory without one": (adding("identity", 'inventory = "optional"'),
        "vendors.acme.identity.inventory", "there is no inventory", "csv_path"),
    "inventory of nothing": (adding("store", "[inventory]"),
        "inventory.csv_path", "nothing else says where", "Name a CSV file"),
    "inventory twice": (adding("store", '[inventory]\ncsv_path = "a.csv"\n[inventory.sql]\nsqlite_path = "a.sqlite"'),
        "inventory.csv_path", "given together with sql", "Keep one"),
    "inventory in no database": (adding("store", "[inventory.sql]"),
        "inventory.sql.sqlite_path", "neither given", "or url_path for PostgreSQL"),
    "inventory in another table": (adding("store", '[inventory.sql]\nsqlite_path = "a.sqlite"\ntable = "a b"'),
        "inventory.sql.table", "", ""),
    "inventory over http": (adding("store", '[inventory.http]\nurl = "http://a.example/x"\nsecret_path = "a.secret"'),
        "inventory.http.url", "is not https", "http is for 127.0.0.1 only"),
    "subject kept that may be absent": (adding("vendor", 'quirks = ["no_subject"]'),
        "vendors.acme.identity.subject", "quirks has no_subject", '"derive"'),
    "unknown placeholder": (adding("identity", 'subject_template = "CN={serialnumber}"'),
        "vendors.acme.identity.subject_template", "unknown placeholder", 'Did you mean "serial_number"?'),
    "country of three letters": (adding("identity", 'subject_template = "CN={cn},C=DEU"'),
        "vendors.acme.identity.subject_template", "distinguished name", "Write it like"),
    "country of a digit": (adding("identity", 'subject_template = "CN={cn},C=D1"'),
        "vendors.acme.identity.subject_template", "attribute C is no country code of two letters", "another value"),
    "control character in a template": (adding("identity", 'subject_template = "CN={cn},O=a\\u202eb"'),
        "vendors.acme.identity.subject_template", "attribute O has the character U+202E", "another value"),
    "long unit in a template": (adding("identity", f'subject_template = "CN={{cn}},OU={"x" * 65}"'),
        "vendors.acme.identity.subject_template", "attribute OU has 65 characters; 64 are allowed", "another value"),
    "underscore in a SAN template": (adding("identity", 'san_template = ["dns:{cn}.r_an.example.net"]'),
        "vendors.acme.identity.san_template[0]", "subjectAltName dNSName is no host name", "another value"),
    "wildcard in a SAN template": (adding("identity", 'san_template = ["dns:*.example.net"]'),
        "vendors.acme.identity.san_template[0]", "is a wildcard", "another value"),
    "dot at the end of a SAN template": (adding("identity", 'san_template = ["dns:{host}.example.net."]'),
        "vendors.acme.identity.san_template[0]", "is no host name", "another value"),
    "placeholder that reaches into objects": (adding("identity", 'subject_template = "CN={cn.__class__}"'),
        "vendors.acme.identity.subject_template", "unknown placeholder", "Use only {cn}"),
    "unpaired brace": (written(identity=IDENTITY + 'allowed_subjects = ["CN={cn"]'),
        "vendors.acme.identity.allowed_subjects[0]", "unpaired brace", "{cn}"),
    "placeholder that is no attribute": (adding("identity", 'subject_template = "CN={2.5}"'),
        "vendors.acme.identity.subject_template", "unknown placeholder", "OID like {2.5.4.13}"),
    "placeholder with a format": (adding("identity", 'san_template = ["dns:{fqdn:>9}"]'),
        "vendors.acme.identity.san_template[0]", "unknown placeholder", "{fqdn}, {host}"),
    "first label as identity": (adding("identity", 'identity_from = "host"'),
        "vendors.acme.identity.identity_from", "not one of the values", "fqdn"),
    "template that is no name": (adding("identity", 'subject_template = "{cn}"'),
        "vendors.acme.identity.subject_template", "not a distinguished name", "CN=enb1.example.net"),
    "SAN without kind": (adding("identity", 'allowed_sans = ["*.example.net"]'),
        "vendors.acme.identity.allowed_sans[0]", "what kind of name", '"dns:"'),
    "SAN that is no address": (adding("identity", 'san_template = ["ip:300.1.1.1"]'),
        "vendors.acme.identity.san_template[0]", "not an IP address", "192.0.2.1"),
    "bundled CA without [ca]": (written(upstream='[upstreams.main]\nkind = "bundled"'),
        "upstreams.main.kind", "there is no [ca]", "ra-gateway init"),
    "no ledger": (written('[ca]\ndirectory_path = "ca"'),
        "ca.ledger_path", "is required", "PostgreSQL"),
    "two ledgers": (written(CA + '\nledger_url = "postgresql://ca@db/ledger"'),
        "ca.ledger_url", "together with ledger_path", "Leave one"),
    "a database of another kind": (written(CA_ON_POSTGRESQL.replace("postgresql", "mysql")),
        "ca.ledger_url", "does not begin with postgresql://", "postgresql://"),
    "client mode for a vendor that is not there": (written(CA + '\n[ca.client]\nvendors = ["acne"]'),
        "ca.client.vendors[0]", "does not exist", 'Did you mean "acme"?'),
    "wrong value with a near one": (written(CA + '\nreenroll = "windows"'),
        "ca.reenroll", "not one of the values", 'Did you mean "window"?'),
}  # fmt: skip


@pytest.mark.parametrize("text, path, what, todo", WRONG.values(), ids=WRONG.keys())
def test_a_problem_has_its_place_its_nature_and_its_remedy(
    text: str, path: str, what: str, todo: str
) -> None:
    (problem,) = problems(text)
    assert problem.path == path
    assert what in problem.what
    assert todo in problem.todo


@pytest.mark.parametrize(
    "text, place, reason",
    [
        ("[log]\nlevel = debug\n", "gateway.toml:2", "Invalid value"),
        ("[log]\n[log]\n", "gateway.toml:2", "Cannot declare"),
        ('[log]\nlevel = """x\n', "gateway.toml:3", "Unterminated string"),
    ],
)
def test_a_syntax_error_has_its_line(tmp_path: Path, text: str, place: str, reason: str) -> None:
    (tmp_path / "gateway.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "gateway.toml")
    (problem,) = caught.value.problems
    assert problem.path == str(tmp_path / place)
    assert reason in problem.what


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "latin1.toml").write_bytes(b"# gr\xfc\xdfe")
    for name, what in {"absent.toml": "No such file", "latin1.toml": "not UTF-8"}.items():
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name)
        (problem,) = caught.value.problems
        assert problem.path == str(tmp_path / name)
        assert what in problem.what


def test_everything_wrong_is_reported_together(site: Path) -> None:
    """A wrong value hides neither its neighbours nor what its table has wrong with others."""
    (site / "ra.key").chmod(0o644)
    text = written(
        server='[server]\nlisten_port = "x"\nlisten_hots = "h"\nmax_body_bytes = 1',
        vendor='[vendors.acme]\nanchors_paths = ["acme.pem", "absent.pem"]\nquirks = ["?"]',
        identity=IDENTITY + 'subject = "derive"\nallowed_subjects = ["*"]\nidentity_from = 3',
        endpoint='[endpoints.ran]\npaths = ["nope"]\nvendors = ["acne"]\nupstream = "mian"',
    )
    assert {problem.path for problem in problems(text, site, check_files=True)} == {
        "server.listen_port",
        "server.listen_hots",
        "server.max_body_bytes",
        "ra.key_path",
        "vendors.acme.anchors_paths[1]",
        "vendors.acme.quirks[0]",
        "vendors.acme.identity.identity_from",
        "vendors.acme.identity.subject_template",
        "endpoints.ran.paths[0]",
        "endpoints.ran.vendors[0]",
        "endpoints.ran.upstream",
    }


# --- Files and secrets ----------------------------------------------------------------------------


def test_missing_empty_and_wrong_files(site: Path) -> None:
    (site / "root.pem").unlink()
    (site / "acme.pem").write_text("")
    (site / "ra.pem").unlink()
    (site / "ra.pem").mkdir()
    found = {item.path: item for item in problems(written(), site, check_files=True)}
    assert "No such file" in found["operator.anchors_paths[0]"].what
    assert str(site / "root.pem") in found["operator.anchors_paths[0]"].what
    assert "is empty" in found["vendors.acme.anchors_paths[0]"].what
    assert "is not a file" in found["ra.certificate_path"].what


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o644, 0o660])
def test_a_secret_file_must_be_its_owners_alone(site: Path, mode: int) -> None:
    (site / "ra.key").chmod(mode)
    (problem,) = problems(written(), site, check_files=True)
    assert problem.path == "ra.key_path"
    assert f"mode {mode:04o}" in problem.what
    assert problem.todo == f"Run: chmod 600 {site / 'ra.key'}"


SECRETS = {
    "store.redis_url_path": {
        "store": '[store]\nkind = "redis"\nredis_url_path = "secret"\nseal_key_paths = ["seal"]'
    },
    "store.seal_key_paths[1]": {
        "store": '[store]\nkind = "redis"\nredis_url = "redis://r"\nseal_key_paths = ["seal", "secret"]'
    },
    "endpoints.ran.mac.secrets_path": {"more": '[endpoints.ran.mac]\nsecrets_path = "secret"'},
    "ca.key_password_path": {"more": f'{CA}\nkey_password_path = "secret"'},
    "ra.key_password_path": {"ra": TABLES["ra"] + '\nkey_password_path = "secret"'},
    "upstreams.main.tls_key_path": {
        "upstream": TABLES["upstream"]
        + '\ntls_certificate_path = "ra.pem"\ntls_key_path = "secret"'
    },
    "upstreams.main.token_path": {
        "upstream": '[upstreams.main]\nkind = "vault"\nurl = "https://v"\nrole = "r"\ntoken_path = "secret"'
    },
    "upstreams.main.provisioner_key_path": {
        "upstream": '[upstreams.main]\nkind = "step_ca"\nurl = "https://s"\nroot_path = "root.pem"\n'
        'provisioner = "ra"\nprovisioner_key_path = "secret"'
    },
}


@pytest.mark.parametrize("setting", SECRETS)
def test_every_kind_of_secret_is_its_owners_alone(site: Path, setting: str) -> None:
    """Keys of seals, shared secrets, tokens, passwords and URLs with them, as much as the RA's key."""
    for name, mode in (("secret", 0o640), ("seal", 0o600)):
        (site / name).write_text("x" * 64)
        (site / name).chmod(mode)
    found = problems(written(**SECRETS[setting]), site, check_files=True)
    assert [item.path for item in found if "mode 0640" in item.what] == [setting]


def test_what_the_bundled_ca_lacks_is_named(site: Path) -> None:
    (site / "ca/cmp.key").unlink()
    (site / "ca/root.pem").unlink()
    (problem,) = problems(written(CA), site, check_files=True)
    assert problem.path == "ca.directory_path"
    assert problem.what.endswith("lacks root.pem, cmp.key")
    assert "ra-gateway init" in problem.todo


def test_the_bundled_cas_keys_are_secrets_too(site: Path) -> None:
    (site / "ca/issuing.key").chmod(0o644)
    (problem,) = problems(written(CA), site, check_files=True)
    assert problem.path == "ca.directory_path"
    assert "issuing.key" in problem.todo


def test_the_url_of_the_ledger_comes_from_a_secret_file(site: Path) -> None:
    (site / "url").write_text("postgresql://ca:secret@db/ledger\n")
    (site / "url").chmod(0o600)
    (site / "ca.toml").write_text('[ca]\ndirectory_path = "ca"\nledger_url_path = "url"')
    assert load_ca(site / "ca.toml").ca.database == "postgresql://ca:secret@db/ledger"


def test_the_ledgers_directory_must_exist(site: Path) -> None:
    text = written(CA.replace('"ledger.sqlite"', '"absent/ledger.sqlite"'))
    (problem,) = problems(text, site, check_files=True)
    assert problem.path == "ca.ledger_path"
    assert "does not exist" in problem.what


SECRET = "Tr0ub4dor"
INLINE = {
    "password in the Redis URL": (adding("store", f'redis_url = "redis://:{SECRET}@h:6379/0"'),
        "store.redis_url"),
    "password in the database's URL": (written(CA_ON_POSTGRESQL.replace("ca@db", f"ca:{SECRET}@db")),
        "ca.ledger_url"),
    "password in the Redis URL's query": (adding("store", f'redis_url = "redis://h:6379/0?password={SECRET}"'),
        "store.redis_url"),
    "password of Sentinels in the Redis URL": (adding("store",
        f'redis_url = "redis+sentinel://h,h/m?sentinel_password={SECRET}"'), "store.redis_url"),
    "Redis URL that is none": (adding("store", f'redis_url = "redis//:{SECRET}@h"'),
        "store.redis_url"),
    "Redis URL where its file belongs": (adding("store", f'redis_url_path = "redis://:{SECRET}@h"'),
        "store.redis_url_path"),
    "password where its file belongs": (adding("ra", f'key_password_path = "{SECRET}"'),
        "ra.key_password_path"),
    "password under a key of its own": (adding("ra", f'key_password = "{SECRET}"'),
        "ra.key_password"),
    "password under an unknown key": (adding("store", f'redis_password = "{SECRET}"'),
        "store.redis_password"),
    "private key where its file belongs": (
        written(ra=TABLES["ra"].replace('"ra.key"', f'"-----BEGIN PRIVATE KEY-----{SECRET}"')),
        "ra.key_path"),
    "private key where a certificate's file belongs": (
        written(ra=TABLES["ra"].replace('"ra.pem"', f'"""-----BEGIN KEY-----\n{SECRET}"""')),
        "ra.certificate_path"),
    "password in the CA's URL": (written(upstream=TABLES["upstream"].replace("//ca", f"//ra:{SECRET}@ca")),
        "upstreams.main.url"),
    "password in the URL of a proxy": (adding("upstream", f'proxy = "http://ra:{SECRET}@p:3128"'),
        "upstreams.main.proxy"),
    "password of a wrong type": (adding("ra", f'key_password_path = ["{SECRET}"]'),
        "ra.key_password_path"),
}  # fmt: skip


@pytest.mark.parametrize("text, path", INLINE.values(), ids=INLINE.keys())
def test_a_secret_in_the_file_is_refused_and_not_repeated(site: Path, text: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, directory=site)
    assert [problem.path for problem in caught.value.problems] == [path]
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.problems)
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown.replace(text, "")


def test_a_loaded_configuration_does_not_show_where_secrets_are(site: Path) -> None:
    loaded = parse(written(CA), directory=site)
    for text in (repr(loaded), str(loaded)):
        assert "ra.key" not in text
        assert "key_path" not in text
