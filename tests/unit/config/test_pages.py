"""The configurations in the pages about CAs and RAs of other makers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ra_gateway.cmp.codes import BodyType
from ra_gateway.config.reading import parse
from ra_gateway.ra.settings import CertConf
from ra_gateway.upstream.kinds import CMPHTTPUpstream
from tests.support.configurations import written

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("ra-siemens.md", "ca-trustpoint.md", "ca-nokia-insta.md")


def samples(page: str) -> list[str]:
    """The TOML of a page: what is indented and begins with a table."""
    text = (DOCS / page).read_text()
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", text, re.MULTILINE)
    plain = (re.sub(r"^    ", "", block, flags=re.MULTILINE).strip() for block in blocks)
    tables = [block for block in plain if block.startswith("[")]
    # What `init` calls bundled is main in the configuration that these are put into.
    return [block.replace('upstream = "bundled"', 'upstream = "main"') for block in tables]


@pytest.mark.parametrize("page", PAGES)
def test_its_configurations_are_loaded(page: str) -> None:
    """Each by itself, put into a valid configuration in the place of what it replaces."""
    assert samples(page)
    for sample in samples(page):
        replaced = {"endpoint": ""} if "[endpoints.ran]" in sample else {}
        parse(written(sample, **replaced), directory=Path("/nowhere"), check_files=False)


def test_what_they_say_is_so() -> None:
    """The dialects set what the pages promise."""
    (sample,) = samples("ca-trustpoint.md")
    config = parse(written(sample), directory=Path("/nowhere"), check_files=False)
    upstream = config.upstreams["trustpoint"]
    assert isinstance(upstream, CMPHTTPUpstream)
    assert (upstream.ir_as_cr, upstream.certconf, upstream.max_pvno, upstream.ids) == (
        True, CertConf.implicit, 2, "map",
    )  # fmt: skip
    assert upstream.mac is not None
    assert upstream.mac.reference == "17"
    before, behind = samples("ra-siemens.md")
    config = parse(written(before, endpoint=""), directory=Path("/nowhere"), check_files=False)
    assert config.endpoints["ran"].p10cr_cert_req_id == 0
    assert BodyType.kur in config.endpoints["ran"].body_types
    config = parse(written(behind), directory=Path("/nowhere"), check_files=False)
    upstream = config.upstreams["siemens"]
    assert isinstance(upstream, CMPHTTPUpstream)
    assert upstream.ids == "map"
