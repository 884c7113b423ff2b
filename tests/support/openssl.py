"""The `openssl` of the machine, as a CMP client and as a mock CA.

It is a stranger: nobody here wrote it. Where it is missing the tests fail; they are never skipped.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias, TypedDict, Unpack

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import Credential, write_certificates
from tests.support.ports import LocalServer

Files: TypeAlias = Path | Sequence[Path]

CLIENT_TIMEOUT_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.02


Command = Literal["ir", "cr", "p10cr", "kur", "rr", "genm"]


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of openssl left.

    Args:
        args: The command line, to be repeated by hand.
        returncode: 0 when the whole dialogue succeeded.
        stdout: Where `openssl cmp` writes its log.
        stderr: Where it writes why it ended.
    """

    args: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Everything that was written."""
        return self.stdout + self.stderr

    @property
    def fail_info(self) -> frozenset[str]:
        """Names of the failInfo bits in the answer ("badPOP"), empty if there was none."""
        found = re.search(r"PKIFailureInfo: ([\w, ]+)", self.output)
        return frozenset(found[1].replace(",", " ").split()) if found else frozenset()

    def check(self) -> Self:
        """Return the result if the run succeeded.

        Raises:
            AssertionError: It did not; the text has the command line and the log.
        """
        if self.returncode != 0:
            raise AssertionError(f"{' '.join(self.args)}\n{self.output}")
        return self


def openssl_path() -> str:
    """Return the path of an openssl that knows `cmp`.

    Raises:
        AssertionError: There is none.
    """
    path = shutil.which("openssl")
    if path is None:
        raise AssertionError("openssl is not on this machine; install it (Debian: openssl)")
    return path


class ClientOptions(TypedDict, total=False):
    """Options of `openssl cmp`, under their own names.

    Args:
        cert: Certificate that signs the request; for kur also the one to be updated.
        key: Its private key.
        extracerts: Certificates to send along.
        trusted: Anchors for the server's protection.
        newkey: Private key to be certified; `key` if absent.
        subject: For the template, in OpenSSL's form: "/O=ACME Radio/CN=SN-000001".
        certout: Where the new certificate is written; openssl insists on it, so nowhere if absent.
    """

    cert: Path | None
    key: Path | None
    extracerts: Files | None
    trusted: Files | None
    newkey: Path | None
    subject: str | None
    certout: Path


def openssl_cmp(
    command: Command,
    *,
    server: str,
    path: str = "/.well-known/cmp",
    extra_args: Sequence[str] = (),
    timeout_seconds: float = CLIENT_TIMEOUT_SECONDS,
    program: str | None = None,
    **options: Unpack[ClientOptions],
) -> Result:
    """Run one enrolment with `openssl cmp` and wait for it.

    Args:
        command: The request to send.
        server: "host:port" of the CMP server.
        path: Its HTTP path.
        extra_args: Further options, for example ("-implicit_confirm",).
        timeout_seconds: The run is killed after that.
        program: Path of another openssl than the machine's (`tests.support.newer_openssl`).
        options: See `ClientOptions`.

    Raises:
        subprocess.TimeoutExpired: The dialogue did not end in time.
    """
    args = [program or openssl_path(), "cmp", "-config", "", "-batch", "-cmd", command]
    args += ["-server", server, "-path", path]
    for name, value in ({"certout": Path(os.devnull)} | options).items():
        if value is None or value == ():
            continue
        # Options that take several files want them separated by commas.
        files = [value] if isinstance(value, str | Path) else value
        assert isinstance(files, Sequence)
        args += [f"-{name}", ",".join(str(file) for file in files)]
    args += extra_args
    done = subprocess.run(
        args,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=_environment(),
        timeout=timeout_seconds,
        check=False,
    )
    return Result(tuple(args), done.returncode, done.stdout, done.stderr)


async def openssl_cmp_async(command: Command, **options: Any) -> Result:
    """Do what `openssl_cmp` does while the server runs in this event loop.

    Args:
        options: As of `openssl_cmp`.

    Raises:
        subprocess.TimeoutExpired: The dialogue did not end in time.
    """
    return await asyncio.to_thread(openssl_cmp, command, **options)


class OpensslMockCA(LocalServer):
    """The mock CA of `openssl cmp -port`, running from `with` to the end of the block.

    It answers one request at a time, remembers one transaction, and returns the same certificate to
    everybody. It listens on a port the kernel chooses, and on every interface: it has no option for
    the address.

    Args:
        directory: For its files and its log.
        signer: Credential that protects the answers.
        trusted: Anchors for the protection of requests.
        response_certificate: What every request gets.
        untrusted: Intermediates that help to verify requests.
        response_extra_certs: Into extraCerts of a certificate response.
        response_ca_pubs: Into caPubs of an ip.
        grant_implicit_confirm: Grant what the client asks for.
        accept_raverified: Accept raVerified as proof of possession.
        poll_count: Answer "waiting" that many times first.
        extra_args: Further options, for example ("-pkistatus", "2", "-failure", "9").
    """

    def __init__(
        self,
        directory: Path,
        *,
        signer: Credential,
        trusted: Sequence[x509.Certificate],
        response_certificate: x509.Certificate,
        untrusted: Sequence[x509.Certificate] = (),
        response_extra_certs: Sequence[x509.Certificate] = (),
        response_ca_pubs: Sequence[x509.Certificate] = (),
        grant_implicit_confirm: bool = False,
        accept_raverified: bool = False,
        poll_count: int = 0,
        extra_args: Sequence[str] = (),
    ) -> None:
        self.log_path = directory / "openssl-mock-ca.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        cert, key = signer.write(directory, "mock-ca")
        self._args = [openssl_path(), "cmp", "-config", "", "-port", "0"]
        self._args += ["-srv_cert", str(cert), "-srv_key", str(key)]
        for option, certificates in {
            "-srv_trusted": trusted,
            "-srv_untrusted": (*signer.intermediates, *untrusted),
            "-rsp_cert": (response_certificate,),
            "-rsp_extracerts": response_extra_certs,
            "-rsp_capubs": response_ca_pubs,
        }.items():
            if certificates:
                file = write_certificates(directory / f"mock-ca{option}.pem", *certificates)
                self._args += [option, str(file)]
        if poll_count:
            self._args += ["-poll_count", str(poll_count), "-check_after", "1"]
        self._args += ["-grant_implicitconf"] if grant_implicit_confirm else []
        self._args += ["-accept_raverified"] if accept_raverified else []
        self._args += extra_args

    @property
    def url(self) -> str:
        """URL to post to; the mock server answers on this path whatever the alias."""
        return f"http://{self.server}/pkix/"

    def __enter__(self) -> Self:
        """Start the server and return when it listens.

        Raises:
            AssertionError: It ended, or did not listen in time; the text has its log.
        """
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._args,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
            )
        try:
            self.port = self._await_port(self._process)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self._stop()

    def _await_port(self, process: subprocess.Popen[bytes]) -> int:
        # It logs "ACCEPT [::]:PORT PID=..." when it listens; a trial connection would be a request.
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            if found := re.search(r"^ACCEPT \S+:(\d+)\s", self.log, re.MULTILINE):
                return int(found[1])
            if process.poll() is not None:
                break
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"the mock CA does not listen: {' '.join(self._args)}\n{self.log}")

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def run_openssl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of openssl and return what came of it."""
    return subprocess.run(
        [openssl_path(), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def load_certificate(path: Path) -> x509.Certificate:
    """Load the first certificate of a PEM file, such as the one `openssl cmp -certout` wrote."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def public_key_der(certificate: x509.Certificate) -> bytes:
    """Return SubjectPublicKeyInfo of a certificate, to compare keys by."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _environment() -> Mapping[str, str]:
    """The environment without proxies: every server of a test is on this machine."""
    return {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}


def extended_key_usages(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    """Return the purposes of a certificate that says which it has."""
    return {*certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value}
