"""Dialects and examples: what a configuration makes of them, and that the documents say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.config.dialects import DIALECT_KEYS, DialectConfig, settings_of, with_dialects
from ra_gateway.config.reading import load, parse
from ra_gateway.errors import ConfigError
from ra_gateway.ra.dialects import DIALECTS
from ra_gateway.upstream.kinds import CMPHTTPUpstream
from tests.support.configurations import written

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs/upstreams.md").read_text()
EXAMPLES = sorted((ROOT / "config").glob("gateway.*.toml"))
HTTP = '[upstreams.main]\nkind = "cmp_http"\nurl = "http://ca.example.net/cmp"\n'


def upstream(lines: str, more: str = "") -> Any:
    """The upstream of a configuration."""
    text = written(more, upstream=HTTP + lines)
    return parse(text, directory=Path("/nowhere"), check_files=False).upstreams["main"]


def problems(lines: str, more: str = "") -> str:
    """What is said of a configuration that is wrong."""
    with pytest.raises(ConfigError) as caught:
        upstream(lines, more)
    return "\n".join(map(str, caught.value.problems))


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_sets_what_its_table_says(name: str) -> None:
    """And leaves every other key at its default."""
    found, bare = upstream(f'dialect = "{name}"'), upstream("")
    for key in DIALECT_KEYS:
        expected = DIALECTS[name].get(key, plain(getattr(bare, key)))
        assert (key, plain(getattr(found, key))) == (key, expected)


def test_a_key_of_the_upstream_wins() -> None:
    """Whatever the dialect says."""
    found = upstream('dialect = "ejbca-ra"\ncertconf = "implicit"\nmax_pvno = 3')
    assert (found.certconf, found.max_pvno, found.kur_names_issuer) == ("implicit", 3, True)


def test_a_dialect_of_one_s_own() -> None:
    """It changes the one it builds on, and an upstream may change it again."""
    house = '[dialects.house]\nbase = "ejbca-ra"\npop = "raverified"\nunconfirmed = "report"'
    found = upstream('dialect = "house"\nunconfirmed = "leave"', house)
    assert (found.pop, found.unconfirmed, found.certconf) == ("raverified", "leave", "local")


def test_a_dialect_without_a_base() -> None:
    """Sets what it says and nothing else."""
    found = upstream('dialect = "house"', '[dialects.house]\nids = "map"')
    assert (found.ids, found.kur, found.certconf) == ("map", "reprotect", "forward")


@pytest.mark.parametrize(
    "lines, more, told",
    [
        ('dialect = "ejbca"', "", "upstreams.main.dialect"),
        ('dialect = "house"', '[dialects.house]\nbase = "nope"', "dialects.house.base"),
        ("", '[dialects.insta]\npop = "keep"', "comes with the gateway"),
        ("", "[dialects.house]\nurl = 1", "dialects.house.url"),
        ('dialect = "house"', '[dialects.house]\nkur = "sideways"', "dialects.house.kur"),
        ('tolerate = ["everything"]', "", "upstreams.main.tolerate"),
        ('certconf = "never"', "", "upstreams.main.certconf"),
        ("max_pvno = 1", "", "upstreams.main.max_pvno"),
        ('path = "a b"', "", "upstreams.main.path"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(lines: str, more: str, told: str) -> None:
    """Unknown names and values, and a change to what comes with the gateway."""
    assert told in problems(lines, more)


@pytest.mark.parametrize(
    "route, told",
    [
        ('upstream = "nope"', "routes[0].upstream"),
        ('upstream = "main"\ndomains = ["rivet"]', "routes[0].domains"),
        ('upstream = "main"\nprofiles = ["lab"]', "routes[0].profiles"),
        ('upstream = "main"\nbody_types = ["ccr"]', "routes[0].body_types"),
        ("profiles = []", "routes[0].upstream"),
    ],
)
def test_a_route_that_leads_nowhere(route: str, told: str) -> None:
    """Or takes nothing, ever."""
    assert f"endpoints.ran.{told}" in problems("", f"[[endpoints.ran.routes]]\n{route}")


def test_a_dialect_fills_nothing_into_what_speaks_no_cmp() -> None:
    """So that all there is to say is that there is no such key."""
    raw = {"upstreams": {"api": {"kind": "rest", "dialect": "insta"}, "odd": 3}}
    assert with_dialects(raw) == raw


def test_every_key_of_a_dialect_is_one_of_an_upstream() -> None:
    """By the same name."""
    assert set(DialectConfig.model_fields) - {"base"} <= set(DIALECT_KEYS)
    assert set(DIALECT_KEYS) <= set(CMPHTTPUpstream.model_fields)
    assert settings_of("nope", {}) is None


def test_the_document_has_the_table() -> None:
    """docs/upstreams.md says what each dialect sets."""
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (`.*`) \|$", DOCUMENT, re.MULTILINE))
    assert rows == {
        name: ", ".join(f"`{key} = {json.dumps(value)}`" for key, value in settings.items())
        for name, settings in DIALECTS.items()
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_load(path: Path) -> None:
    """Each file in config/ is a configuration, and with a CA elsewhere says how it hears of revocations."""
    config = load(path, check_files=False)
    assert config.endpoints
    assert config.has_bundled_upstream or config.operator.revocation.mode != "off"
