"""A base station made of files, whose client is Debian's `openssl cmp`, and the gateway it talks to."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.support.openssl import Command, Result, load_certificate, openssl_cmp
from tests.support.pki import Authority, Credential, PrivateKey, write_certificates, write_key
from tests.support.processes import GatewayProcess

ENROLMENT: Final = ["IR", "IP", "CERTCONF", "PKICONF"]


SUBJECT: Final = "/O=Example Operator/CN=enb-7.ran.example.net"


SUBJECT_RFC4514: Final = "CN=enb-7.ran.example.net,O=Example Operator"


SAN: Final = ("enb-7.ran.example.net", "192.0.2.7")


class Site(NamedTuple):
    """A gateway that runs, and the files of its setup."""

    directory: Path
    gateway: GatewayProcess

    @property
    def root(self) -> Path:
        """The operator's root, PEM: all a client is given to trust."""
        return self.directory / "operator" / "root.pem"

    @property
    def issuing(self) -> Authority:
        """The operator's issuing CA, to make certificates behind the gateway's back."""
        return load_issuing_ca(self.directory)

    @property
    def issued_count(self) -> int:
        """Certificates in the ledger of the bundled CA."""
        with closing(sqlite3.connect(self.directory / "ca" / "ledger.sqlite")) as ledger:
            count: int = ledger.execute("SELECT count(*) FROM certificates").fetchone()[0]
        return count


@dataclass(slots=True)
class Station:
    """What a base station has on its disk, and how it asks for more.

    Args:
        directory: Its own.
        site: Whose gateway it talks to.
        credential: Protects its requests.
        extracerts: Sent along, in this order; by default all intermediates of the credential.
    """

    directory: Path
    site: Site
    credential: Credential
    extracerts: Sequence[x509.Certificate] | None = None

    @property
    def certificate(self) -> x509.Certificate:
        """What the last operation brought."""
        return load_certificate(self.directory / "new.pem")

    @property
    def received(self) -> list[x509.Certificate]:
        """Certificates in extraCerts of the last operation's answer."""
        return load_all(self.directory / "received.pem")

    def ask(
        self,
        command: Command = "ir",
        *options: str,
        new_key: PrivateKey | None = None,
        path: str = "/.well-known/cmp",
    ) -> Result:
        """Run one operation.

        Args:
            options: Further options of openssl; they win over the usual ones.
            new_key: To be certified; by default the one it has.
        """
        cert, key = self.credential.write(self.directory, "own")
        if new_key is not None:
            write_key(self.directory / "new.key", new_key)
        extracerts = self.credential.intermediates if self.extracerts is None else self.extracerts
        sent = write_certificates(self.directory / "extra.pem", *extracerts) if extracerts else None
        named = command in ("ir", "cr")
        names = ("-subject", SUBJECT, "-sans", " ".join(SAN)) if named else ()
        return openssl_cmp(
            command,
            server=self.site.gateway.server,
            path=path,
            cert=cert,
            key=key,
            newkey=None if new_key is None else self.directory / "new.key",
            extracerts=sent,
            trusted=self.site.root,
            certout=self.directory / "new.pem",
            extra_args=[
                *names,
                *("-extracertsout", str(self.directory / "received.pem")),
                *options,
            ],
        )

    def enrolled(self, new_key: PrivateKey) -> Station:
        """Return the same base station with the certificate of the last operation in use."""
        chain = (self.site.issuing.certificate, load_certificate(self.site.root))
        return replace(self, credential=Credential(self.certificate, new_key, chain))


def load_issuing_ca(directory: Path) -> Authority:
    """Load the operator's issuing CA out of a setup."""
    key: Any = load_pem_private_key((directory / "ca" / "issuing.key").read_bytes(), None)
    root = load_certificate(directory / "operator" / "root.pem")
    return Authority(load_certificate(directory / "ca" / "issuing.pem"), key, (root,))


def dialogue(result: Result) -> list[str]:
    """Return the names of all messages, sent and received, as openssl prints them."""
    return re.findall(r"CMP info: (?:sending|received) ([A-Z][A-Z0-9]+)", result.output)


def load_all(path: Path) -> list[x509.Certificate]:
    """Load all certificates of a PEM file."""
    return x509.load_pem_x509_certificates(path.read_bytes())
