"""A site on which the commands of docs/runbook.md and docs/alerts.md are run as they are printed there."""

from __future__ import annotations

import asyncio
import re
import secrets
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ra_gateway.app.application import Application
from ra_gateway.config.reading import load
from ra_gateway.device import client
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import (
    DeviceIdentity,
    Done,
    RequestOptions,
    Send,
    operator_trust,
)
from ra_gateway.events import Fact
from ra_gateway.keys import load_certificates
from tests.support.commandline import run
from tests.support.credentials import cmp_credential
from tests.support.pages import DOCS
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI, make_key
from tests.support.polling import settled
from tests.support.redis_server import RedisServer

ELSEWHERE: Final = ("/var/backups/ra_gateway", "/opt", "/media/offline")
"""Directories of the pages besides /etc/ra_gateway: here they are below that one."""


def sections(page: str) -> dict[str, list[str]]:
    """Return the indented paragraphs of a page by the heading they stand under, those without any left out."""
    found = {}
    for part in re.split(r"^#+ ", (DOCS / page).read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        paragraphs = [
            textwrap.dedent(item).strip("\n")
            for item in re.split(r"\n\s*\n", text)
            if item.strip("\n").startswith("    ")
        ]
        if paragraphs:
            found[heading] = paragraphs
    return found


class Book:
    """A gateway with the bundled CA in this process, and whoever operates it by a page.

    Args:
        config: Its file; the commands are run in its directory.
        page: Whose commands.
        redis: The one that `redis-cli` talks to.

    `log` is what `journalctl` shows of the gateway.
    """

    def __init__(self, config: Path, page: str, redis: RedisServer | None = None) -> None:
        self.config, self.directory, self.redis = config, config.parent, redis
        self.facts: list[Fact] = []
        self.application: Application | None = None
        self.log = b""
        self._sections = sections(page)
        self._followed: dict[str, Iterator[str]] = {}

    # --- the service ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the gateway with the CA in it, unless it runs."""
        if self.application is not None:
            return
        self.application = Application(
            load(self.config), sink=self.facts.append, read=lambda: load(self.config)
        )
        host, port = await self.application.start()
        self.server = f"{host}:{port}"

    async def stop(self) -> None:
        """Stop it, if it runs."""
        if self.application is not None:
            await self.application.stop()
        self.application = None

    async def wait_for(self, kind: type) -> None:
        """Wait until the gateway tells a fact of a kind."""

        async def told() -> bool:
            return any(isinstance(fact, kind) for fact in self.facts)

        await settled(told)

    # --- the commands --------------------------------------------------------------------------------------

    async def follow(self, section: str, until: str = "", **names: str) -> str:
        """Do what a section says, in its order, and return what its last command wrote.

        Args:
            until: Stop behind the command that has this text; the next call goes on there. To the end if absent.
            names: What stands in the place of words in capitals.
        """
        steps = self._followed.setdefault(section, iter(self._steps(section)))
        told = ""
        for step in steps:
            for name, value in names.items():
                step = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", value, step)
            if step.startswith("["):
                self.configure(step)
            else:
                told = await self.run(step)
            if until and until in step:
                break
        else:
            assert not until, f"{section}: no further step has {until}"
        return told

    def _steps(self, section: str) -> list[str]:
        found = []
        for paragraph in self._sections[section]:
            if paragraph.startswith("["):
                found.append(paragraph)
            else:
                found += paragraph.replace("\\\n", " ").splitlines()
        return found

    async def run(self, line: str) -> str:
        """Run one line, which has to succeed, and return what it wrote."""
        assert self.redis is not None or not line.startswith("redis-cli")
        text = line
        for root in ELSEWHERE:
            text = text.replace(root, f"{self.directory}{root}")
        if self.application is not None:
            management = self.application.management.url.removeprefix("http://")
            text = text.replace("127.0.0.1:8080", self.server).replace("127.0.0.1:9080", management)
        words = shlex.split(text, comments=True)
        match Path(words[0]).name, words[1:]:
            case "ra-gateway", ["reload", *options]:
                await self._ra_gateway("check-config", *options)
                assert self.application is not None
                await self.application.reload()
                return ""
            case "ra-gateway", arguments:
                return await self._ra_gateway(*arguments)
            case "systemctl", [verb, "ra-gateway" | "ra-gateway-ca"]:
                assert verb in ("start", "stop", "restart"), line
                if verb != "start":
                    await self.stop()
                if verb != "stop":
                    await self.start()
                return ""
            case "redis-cli", arguments:
                assert self.redis is not None
                told = self.redis.command(" ".join(arguments)).decode()
                assert not told.startswith("-"), (line, told)
                return told
            case "journalctl", _:  # by itself, or in front of a command that reads a log
                _, pipe, reader = text.partition(" | ra-gateway ")
                return await self._ra_gateway(*shlex.split(reader), stdin=self.log) if pipe else ""
        done = await asyncio.to_thread(
            subprocess.run, ["bash", "-euc", f"umask 077; {text}"], cwd=self.directory,
            capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (text, done.stderr)
        return done.stdout

    async def _ra_gateway(self, *arguments: str, stdin: bytes = b"") -> str:
        ended = await asyncio.to_thread(run, *arguments, stdin=stdin)
        assert ended.exit_code == 0, (arguments, ended)
        return ended.stdout

    def configure(self, toml: str) -> None:
        """Set the keys of one table that a page prints."""
        table, *lines = toml.splitlines()
        text = self.config.read_text()
        assert text.count(f"{table}\n") == 1, table
        head, rest = text.split(f"{table}\n")
        mine, following, others = rest.partition("\n[")
        for line in lines:
            key = line.partition(" = ")[0]
            mine = re.sub(rf"(?m)^{key} = .*\n?", "", mine)
            mine = f"{line}\n{mine}"
        self.config.write_text(f"{head}{table}\n{mine}{following}{others}")

    # --- base stations -------------------------------------------------------------------------------------

    def station(self, vendor: VendorPKI, host: str) -> Enrollment:
        """Return what a base station of a vendor sends, message by message."""
        root = load_certificates(self.directory / "operator" / "root.pem", "root")
        device = vendor.device(host, san=[f"dns:{host}.acme-radio.example"])
        return Enrollment(
            DeviceIdentity(cmp_credential(device), operator_trust(*root)),
            make_key("p256"),
            RequestOptions(
                subject=f"CN={host}.ran.example.net,O=Example Operator",
                san=(f"dns:{host}.ran.example.net",),
            ),
            clock=lambda: datetime.now(UTC),
            random_octets=secrets.token_bytes,
        )

    async def post(self, der: bytes) -> bytes:
        """Post a message to the gateway."""
        async with client.open_session() as session:
            return await client.post(session, f"http://{self.server}/.well-known/cmp", der)

    async def ask(self, station: Enrollment) -> Send:
        """Have a base station ask for a certificate; returns what it sends to confirm it."""
        step = await station.receive(await self.post(await station.request()))
        assert isinstance(step, Send)
        return step

    async def confirm(self, station: Enrollment, step: Send) -> Done:
        """Have a base station confirm what it got."""
        done = await station.receive(await self.post(step.der))
        assert isinstance(done, Done)
        return done

    async def enrol(self, vendor: VendorPKI, host: str) -> Done:
        """Have a base station enrol and confirm."""
        station = self.station(vendor, host)
        return await self.confirm(station, await self.ask(station))


@asynccontextmanager
async def operated(
    config: Path, page: str, chdir: Callable[[Path], None], redis: RedisServer | None = None
) -> AsyncIterator[Book]:
    """Serve a site, and have the commands run in its directory.

    Args:
        chdir: Changes the directory of this process.
    """
    chdir(config.parent)
    (config.parent / "ca.toml").symlink_to(config.name)
    for directory in ELSEWHERE:
        Path(f"{config.parent}{directory}").mkdir(parents=True)
    shutil.copy(config.parent / "ca/root.key", f"{config.parent}/media/offline")
    book = Book(config, page, redis)
    await book.start()
    try:
        yield book
    finally:
        await book.stop()
