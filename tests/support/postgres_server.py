"""A real PostgreSQL for tests, from the machine's binaries and without root's rights."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import key_pem, make_root
from tests.support.ports import free_port

_USER = "postgres"
_PASSWORD = "correct-horse"
_MISSING = (
    "PostgreSQL's {} is neither in /usr/lib/postgresql/*/bin nor in PATH. "
    "Install the server: `apt-get install postgresql` (Debian), or `make postgresql`."
)
_OPTIONS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=100",
    "shared_buffers=32MB",
    "log_min_messages=warning",
)


def postgres_binary(name: str) -> str:
    """Return the path of one of the machine's programs of PostgreSQL, of the newest release there is.

    Raises:
        RuntimeError: There is none; the text says how to install it.
    """
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    program = str(found[-1]) if found else shutil.which(name)
    if program is None:
        raise RuntimeError(_MISSING.format(name))
    return program


def _as_user() -> dict[str, Any]:
    # PostgreSQL refuses to run as root.
    return {"user": _USER, "group": _USER, "extra_groups": []} if os.geteuid() == 0 else {}


class PostgresServer:
    """One PostgreSQL server on a free loopback port.

    Args:
        durable: Whether its commits reach the disk. Otherwise they outlive its processes, and not the machine.

    Raises:
        RuntimeError: The machine has none; the text says how to install it.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._options = (*_OPTIONS, f"fsync={'on' if durable else 'off'}")
        self.port = 0
        self._binary = postgres_binary("postgres")
        self._directory = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._shared_url = ""

    def start(self) -> None:
        """Start the server and return when it answers; again on the same port after an end.

        Raises:
            RuntimeError: It did not start; the text is its log.
        """
        if not self.port:
            self.port = free_port()
            self._make()
        options = [part for option in self._options for part in ("-c", option)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "-D", self._data, "-p", str(self.port), *options],
                cwd=self._directory, stdout=log, stderr=subprocess.STDOUT, **_as_user(),
            )  # fmt: skip
        if not self._answers():
            self.kill()
            raise RuntimeError("postgres did not start:\n" + self._log.read_text())

    def standby(self) -> PostgresServer:
        """Start a server that follows this one; from then on a commit waits until it has it, too.

        Raises:
            RuntimeError: It did not start, or does not follow.
        """
        other = PostgresServer()
        other.port = free_port()
        other._new_directory()
        source = f"host=127.0.0.1 port={self.port} user={_USER} password={_PASSWORD}"
        arguments = ("-D", str(other._data), "-R", "-c", "fast", "-N", "-d", source)
        subprocess.run(
            [postgres_binary("pg_basebackup"), *arguments],
            check=True, cwd="/", capture_output=True, timeout=PATIENCE_SECONDS, **_as_user(),
        )  # fmt: skip
        other.start()
        self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.execute("SELECT sync_state FROM pg_stat_replication").strip() != "sync":
            if time.monotonic() > deadline:
                raise RuntimeError("the standby does not follow:\n" + other._log.read_text())
            time.sleep(0.05)
        return other

    def promote(self) -> None:
        """Have a standby take over; returns when it takes writes."""
        self.execute("SELECT pg_promote()")

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"ledger_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql://{_USER}:{_PASSWORD}@127.0.0.1:{self.port}/{name}"

    def emptied_database(self) -> str:
        """Empty the one database that tests use in turn, which costs less than a new one, and return its URL."""
        if not self._shared_url:
            self._shared_url = self.new_database()
            return self._shared_url
        name = self._shared_url.rpartition("/")[2]
        # What a test left behind may hold locks.
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid();"
            "DROP SCHEMA public CASCADE; CREATE SCHEMA public",
            database=name,
        )
        return self._shared_url

    def drop_databases(self) -> None:
        """Make away with what `new_database` made."""
        names = self.execute("SELECT datname FROM pg_database WHERE datname LIKE 'ledger_%'")
        for name in names.split():
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, sql: str, *, database: str = "postgres") -> str:
        """Run a statement, and return its rows as text.

        Raises:
            RuntimeError: It was refused; the text says why.
        """
        return self._run("psql", "-qAt", "-d", database, "-c", sql)

    def speak_tls(self, name: str) -> bytes:
        """Offer TLS with a new certificate for a DNS name, and return the root it has, PEM."""
        root = make_root("Database root")
        server = root.issue(name, san=[f"dns:{name}"])
        for file, octets in (
            ("server.crt", server.certificate.public_bytes(Encoding.PEM)),
            ("server.key", key_pem(server.private_key)),
        ):
            path = self._data / file
            path.write_bytes(octets)
            path.chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(path, _USER, _USER)
        self.execute("ALTER SYSTEM SET ssl = on")
        self.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.execute("SHOW ssl").strip() != "on" and time.monotonic() < deadline:
            time.sleep(0.05)
        return root.certificate.public_bytes(Encoding.PEM)

    def stop(self) -> None:
        """End the server in order and wait until it is gone."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server at once, as a crash would, and wait until it is gone."""
        self._end(signal.SIGQUIT)

    def remove(self) -> None:
        """End the server and delete its files."""
        self.stop()
        if self.port:
            shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    @property
    def _log(self) -> Path:
        return self._directory / "postgres.log"

    def _new_directory(self) -> None:
        # Not below pytest's directory, which only its owner may enter.
        self._directory = Path(tempfile.mkdtemp(prefix="ra-gateway-postgres-"))
        if os.geteuid() == 0:
            shutil.chown(self._directory, _USER, _USER)

    def _make(self) -> None:
        self._new_directory()
        password = self._directory / "password"
        password.write_text(_PASSWORD)
        password.chmod(0o644)
        subprocess.run(
            [postgres_binary("initdb"), "-D", self._data, "-U", _USER, "-A", "scram-sha-256",
             f"--pwfile={password}", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
            check=True, cwd=self._directory, capture_output=True, **_as_user(),
        )  # fmt: skip

    def _answers(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.execute("SELECT 1")
            except RuntimeError:
                time.sleep(0.05)
            else:
                return True
        return False

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [postgres_binary(program), "-h", "127.0.0.1", "-p", str(self.port), "-U", _USER, *arguments],
            cwd="/", env=os.environ | {"PGPASSWORD": _PASSWORD}, capture_output=True, text=True,
            timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.wait(30)
        self._process = None
