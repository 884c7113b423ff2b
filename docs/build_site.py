"""Build the documents as a site of static pages, which load nothing from elsewhere: build/docs/site/index.html.

python docs/build_site.py

docs/README.md is the one list of pages: its headings are the parts of the site, its rows their pages in order. The
pages are copied with the files that they link to, each at its place in the tree, so that links hold in both.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INDEX = "docs/README.md"

SETTINGS = """[project]
site_name = "ra_gateway"
docs_dir = "pages"
site_dir = "site"
use_directory_urls = false
nav = [
  {{ "Home" = "README.md" }},
  {{ "All pages" = "docs/README.md" }},
{parts}
]

[project.theme]
font = false
features = ["navigation.indexes", "navigation.tabs", "toc.follow"]

[project.markdown_extensions.tables]

[project.markdown_extensions.toc]
permalink = true

[project.markdown_extensions.pymdownx.highlight]

[project.markdown_extensions.pymdownx.superfences]

[project.extra]
generator = false
"""
"""Of Zensical. Pages load nothing from elsewhere when they are read."""


def pages(root: Path = ROOT) -> dict[str, dict[str, str]]:
    """Return the parts of the site, each with its pages: paths below the root by their titles."""
    parts = {}
    for part in re.split(r"^## ", (root / INDEX).read_text(), flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| \[(.+?)\]\((.+?)\) \|", part, re.MULTILINE)
        parts[part.partition("\n")[0]] = {
            title: str((root / "docs" / target).resolve().relative_to(root))
            for title, target in rows
        }
    return parts


def settings(root: Path = ROOT) -> str:
    """Return the configuration of Zensical."""
    parts = ""
    for part, titles in pages(root).items():
        rows = "".join(
            f"    {{ {json.dumps(title)} = {json.dumps(path)} }},\n"
            for title, path in titles.items()
        )
        parts += f"  {{ {json.dumps(part)} = [\n{rows}  ] }},\n"
    return SETTINGS.format(parts=parts.rstrip("\n"))


def build(target: Path, root: Path = ROOT) -> None:
    """Write the site of the documents in a tree into `target`/site.

    Raises:
        subprocess.CalledProcessError: A link or an anchor leads nowhere; the output says where.
    """
    shutil.rmtree(target, ignore_errors=True)
    sources = [root / "README.md", root / INDEX]
    sources += [root / path for part in pages(root).values() for path in part.values()]
    for source in sources:
        _copy(source, root, target)
        for link in re.findall(r"\]\((?!http)([^)#]+)", source.read_text()):
            linked = source.parent / link
            if linked.is_file() and linked.suffix != ".md":
                _copy(linked.resolve(), root, target)
    (target / "zensical.toml").write_text(settings(root))
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    subprocess.run(command, cwd=target, check=True)  # noqa: S603


def _copy(source: Path, root: Path, target: Path) -> None:
    path = target / "pages" / source.relative_to(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)


if __name__ == "__main__":
    folder = ROOT / "build" / "docs"
    try:
        build(folder)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    sys.stdout.write(f"Wrote {folder / 'site' / 'index.html'}\n")
