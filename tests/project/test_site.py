"""The documents as a site: every page in one of its four parts, every link alive, nothing loaded from elsewhere."""

from __future__ import annotations

import re
import runpy
import subprocess
import textwrap
import tomllib
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest

from tests.support.printed import PAGES, ROOT, blocks, is_shell

BUILDER: Final = runpy.run_path(str(ROOT / "docs/build_site.py"))
PARTS: Final[dict[str, dict[str, str]]] = BUILDER["pages"]()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    target = tmp_path_factory.mktemp("docs") / "docs"
    BUILDER["build"](target)
    return target / "site"


def test_the_parts_have_every_page_once() -> None:
    """docs/README.md lists tutorial, how-to, reference and explanation, and in them all pages but the READMEs."""
    assert list(PARTS) == ["Tutorial", "How-to", "Reference", "Explanation"]
    listed = [path for part in PARTS.values() for path in part.values()]
    there = [
        str(path.relative_to(ROOT))
        for pattern in ("*.md", "docs/*.md", "deploy/*.md")
        for path in ROOT.glob(pattern)
    ]
    assert sorted([*listed, "README.md", "docs/README.md"]) == sorted(there)


def test_the_order_of_the_site_is_that_of_the_index() -> None:
    """The README, the index, then its parts."""
    home, index, *parts = tomllib.loads(BUILDER["settings"]())["project"]["nav"]
    assert (home, index) == ({"Home": "README.md"}, {"All pages": "docs/README.md"})
    wanted = [
        {part: [{title: path} for title, path in titles.items()]} for part, titles in PARTS.items()
    ]
    assert parts == wanted


class Loaded(HTMLParser):
    """What a browser loads for a page by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.urls.append(values["href"] or "")
        elif tag != "a" and values.get("src"):
            self.urls.append(values["src"] or "")


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    """Neither fonts nor scripts nor pictures; whoever reads it is known to nobody."""
    files = [*site.rglob("*.html")]
    assert len(files) > sum(map(len, PARTS.values()))
    for file in files:
        loaded = Loaded()
        loaded.feed(file.read_text())
        assert [url for url in loaded.urls if re.match(r"(\w+:)?//", url)] == []
        here = file.parent if file.name != "404.html" else site
        assert loaded.urls
        assert [url for url in loaded.urls if not (here / url.lstrip("/")).is_file()] == []
    assert "@import" not in "".join(path.read_text() for path in site.rglob("*.css"))


def html(site: Path, page: Path) -> str:
    """Return a page of the site by its source."""
    name = "index.html" if page.stem == "README" else f"{page.stem}.html"
    return (site / page.parent.relative_to(ROOT) / name).read_text()


@pytest.mark.parametrize("path", [path for part in PARTS.values() for path in part.values()])
def test_a_page_has_its_contents_beside_it(site: Path, path: str) -> None:
    """A title, and every section below it in the contents, which would be those of the first of several titles."""
    page = html(site, ROOT / path)
    assert page.count("<h1 ") == 1
    contents = re.findall(
        r'<nav class="md-nav md-nav--secondary".*?</nav>\s*</div>', page, re.DOTALL
    )
    for anchor in re.findall(r'<h2 id="(.*?)"', page):
        assert f'href="#{anchor}"' in contents[-1]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_are_code_on_the_page(site: Path, path: Path) -> None:
    """Commands stand in blocks to be copied: none has become text of a list."""
    shown = [
        unescape(re.sub(r"<[^>]+>", "", block))
        for block in re.findall(r"<pre.*?</pre>", html(site, path), re.DOTALL)
    ]
    for lines in (lines for _, lines in blocks(path) if is_shell(lines)):
        assert any(textwrap.dedent("\n".join(lines)) in block for block in shown), lines


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_block_is_of_one_kind(path: Path) -> None:
    """Commands and what is written into a file are apart, with words between them: a block is copied as a whole."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?:^    .*\n(?:\n+(?=    ))?)+", text, re.MULTILINE):
        kinds = {is_shell(part.splitlines()) for part in re.split(r"\n\n+", block.strip("\n"))}
        assert len(kinds) == 1, block


@pytest.mark.parametrize(
    "link, why",
    [("ca.md#roots", "anchor does not exist"), ("cb.md", "page does not exist")],
)
def test_a_link_that_leads_nowhere_ends_the_build(
    link: str,
    why: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """To a page, or to an anchor within one."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# It\n")
    (tmp_path / "docs/README.md").write_text("## How-to\n\n| [CA](ca.md) | it |\n")
    (tmp_path / "docs/ca.md").write_text(f"# Root\n\n[Root](ca.md#root), [another]({link})\n")
    with pytest.raises(subprocess.CalledProcessError):
        BUILDER["build"](tmp_path / "build", tmp_path)
    output = re.sub(r"\x1b\[[\d;]*m", "", "".join(capfd.readouterr()))
    assert output.count("Warning:") == 1
    assert why in output
