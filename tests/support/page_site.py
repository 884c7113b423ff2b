"""A gateway that is configured as a page of the documents says, in this process, and clients that do what it says."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ra_gateway.app.application import Application
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.config.reading import load
from ra_gateway.events import RequestHandled
from tests.support.commandline import PASSWORD, succeeded
from tests.support.harness import handled_only
from tests.support.openssl import CLIENT_TIMEOUT_SECONDS, openssl_path
from tests.support.pages import commands, of_ca, secrets_file, tables
from tests.support.pki import VendorPKI
from tests.support.setups import make_setup

DOMAIN = "ran.example.net"
SECRET = "0123456789abcdef0123456789abcdef"
PRINTED_SERVER = "ra.example.net:8080"


@dataclass
class PageSite:
    """What runs.

    Args:
        directory: Where clients keep their files.
        server: "host:port" of the gateway.
    """

    directory: Path
    application: Application
    events: list[RequestHandled]
    server: str

    async def ask(self, der: bytes, endpoint: str) -> PKIMessage:
        """Send octets and decode the answer."""
        reply = await self.application.gateway.handle(der, endpoint=endpoint, peer="192.0.2.1")
        return PKIMessage.from_der(reply.der)

    async def run(
        self, command: Sequence[str], *options: str, program: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of openssl as it is printed, but for the gateway's address.

        Args:
            program: Path of another openssl than the machine's.
        """
        words = [word.replace(PRINTED_SERVER, self.server) for word in command]
        return await asyncio.to_thread(run_openssl, self.directory, [*words, *options], program)

    async def check(self, command: Sequence[str], *options: str, program: str | None = None) -> str:
        """Run a command that has to succeed, and return what it wrote."""
        done = await self.run(command, *options, program=program)
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"{' '.join(done.args)}\n{output}\n{self.events[-1:]}"
        return output


def run_openssl(
    directory: Path, command: Sequence[str], program: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of openssl in a directory.

    Args:
        program: Path of another openssl than the machine's.
    """
    first = [program or openssl_path(), command[1]]
    if command[1] == "cmp":
        first += ["-config", "", "-batch"]
    return subprocess.run(
        [*first, *command[2:]],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=CLIENT_TIMEOUT_SECONDS,
        check=False,
    )


def make_page_site(directory: Path, page: str, vendor: VendorPKI, *, runs: bool = True) -> Path:
    """Make what `ra-gateway init` makes for a domain, change its `[ca]` as a page says, and run the page's commands.

    Args:
        runs: False runs none.

    Returns:
        Path of gateway.toml.
    """
    config = make_setup(directory, vendors={"acme": vendor}, domain=DOMAIN)
    text = config.read_text()
    for key, line in of_ca(page).items():
        text, count = re.subn(rf"(?m)^{key} = .*$", line, text)
        text = text if count else text.replace("\n[ca]\n", f"\n[ca]\n{line}\n")
    config.write_text(text)
    (directory / "transport.password").touch(0o600)
    (directory / "transport.password").write_text(PASSWORD)
    files = ("gateway.toml", "ca", "transport.password", "onap.p12")
    names = {name: str(directory / name) for name in files}
    for words in commands(page, program="ra-gateway") if runs else ():
        succeeded(words[1], *(names.get(word, word) for word in words[2:]))
    return config


@asynccontextmanager
async def served(
    setup: Path,
    directory: Path,
    page: str,
    *changes: tuple[str, str],
    more: str = "",
    secret: str = SECRET,
) -> AsyncIterator[PageSite]:
    """Serve what `init` and a page say.

    Args:
        setup: Directory with what `init` makes.
        directory: For the files of clients.
        changes: Texts of the page, and what stands in their place.
        more: Further tables.
        secret: In place of the SECRET of the page.
    """
    parts = [tables(page), secrets_file(page, secret)]
    for old, new in changes:
        assert sum(part.count(old) for part in parts) == 1, old
        parts = [part.replace(old, new) for part in parts]
    name = page.removeprefix("client-").removesuffix(".md")
    path = setup / f"{name}.toml"
    path.write_text((setup / "gateway.toml").read_text() + parts[0] + more)
    file = setup / f"{name}-secrets.csv"
    file.touch(0o600)
    file.write_text(parts[1])
    await asyncio.to_thread(succeeded, "check-config", "--config", path)
    events: list[RequestHandled] = []
    application = Application(load(path), sink=handled_only(events.append))
    host, port = await application.start()
    try:
        yield PageSite(directory, application, events, f"{host}:{port}")
    finally:
        await application.stop()
