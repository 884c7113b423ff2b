"""A real LDAP directory for tests: OpenLDAP's slapd, with everything it keeps in a temporary directory."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import key_pem, make_root
from tests.support.ports import free_port

SUFFIX = "o=Example Operator"
ADMIN = f"cn=admin,{SUFFIX}"
PASSWORD = "correct-horse"
_MISSING = "slapd is missing: `apt-get install slapd` (Debian), or `make slapd`."
_CONFIG = """include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile {directory}/slapd.pid
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCertificateFile {directory}/server.pem
TLSCertificateKeyFile {directory}/server.key
TLSCACertificateFile {directory}/root.pem
database mdb
maxsize 67108864
dbnosync
suffix "{suffix}"
rootdn "{admin}"
rootpw {password}
directory {directory}/data
access to * by * read
"""


class Slapd:
    """A directory with one empty entry, `SUFFIX`: ldap on `port`, ldaps on `tls_port`, for 127.0.0.1 and localhost.

    Args:
        directory: Has `root.pem`, what its certificate is below.

    Raises:
        RuntimeError: The machine has none, or it did not start; the text says why.
    """

    def __init__(self, directory: Path) -> None:
        program = shutil.which("slapd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if program is None:
            raise RuntimeError(_MISSING)
        self.directory = directory
        self.port, self.tls_port = free_port(), free_port()
        root = make_root("Directory root")
        server = root.issue("localhost", san=["dns:localhost", "ip:127.0.0.1"])
        for name, octets in (
            ("root.pem", root.certificate.public_bytes(Encoding.PEM)),
            ("server.pem", server.certificate.public_bytes(Encoding.PEM)),
            ("server.key", key_pem(server.private_key)),
        ):
            (directory / name).write_bytes(octets)
        (directory / "data").mkdir()
        config = directory / "slapd.conf"
        values = {"suffix": SUFFIX, "admin": ADMIN, "password": PASSWORD}
        config.write_text(_CONFIG.format(directory=directory, **values))
        urls = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "-f", config, "-h", urls, "-d", "0"], stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Return when it answers, with its one entry made."""
        from ldap3 import Connection, Server

        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)):
                    time.sleep(0.05)
                    continue
            with Connection(Server("127.0.0.1", self.port), ADMIN, PASSWORD) as connection:
                if connection.add(SUFFIX, ["organization"]):
                    return
                raise RuntimeError(str(connection.result))
        raise RuntimeError("slapd did not start:\n" + self._log.read_text(errors="replace"))

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


@pytest.fixture(scope="session")
def slapd() -> Iterator[Slapd]:
    """The directory of the session; each test writes entries of its own."""
    with tempfile.TemporaryDirectory(prefix="slapd-") as directory:
        server = Slapd(Path(directory))
        try:
            server.wait()
            yield server
        finally:
            server.stop()
