"""Where the base stations of a simulated fleet come from: made by a vendor's CA, or read from a directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ra_gateway.clocks import now
from ra_gateway.cmp.protection import Credential
from ra_gateway.device.factory import DeviceCA
from ra_gateway.errors import ConfigError
from ra_gateway.keys import (
    load_certificates,
    load_private_key,
    make_credential,
    require_private_key,
)

_NO_DEVICE = (
    "Give base stations' certificates, each as NAME/cert.pem and key.pem, or NAME.pem and NAME.key"
)


class Source(Protocol):
    """Gives base stations."""

    def take(self, number: int) -> tuple[str, Credential]:
        """Return name and credential of a base station, by its number.

        Raises:
            ConfigError: It cannot be read.
        """


class Maker:
    """Makes each base station when it is asked for.

    Args:
        name: Of base stations, with {n} for the number; the first label of their FQDN.
    """

    def __init__(self, authority: DeviceCA, name: str) -> None:
        self._authority, self._name = authority, name

    def take(self, number: int) -> tuple[str, Credential]:
        """Return name and credential of a new base station."""
        name = self._name.replace("{n}", str(number))
        credential, _ = self._authority.make_device(name)
        return name, credential


class Shelf:
    """Reads each base station when it is asked for.

    Args:
        places: Name, certificate file and key file.
        first: Number of the first one.
    """

    def __init__(
        self, places: Sequence[tuple[str, Path, Path]], first: int, chain: Sequence[Any]
    ) -> None:
        self._places, self._first, self._chain = places, first, tuple(chain)

    def __len__(self) -> int:
        return len(self._places)

    def take(self, number: int) -> tuple[str, Credential]:
        """Return name and credential of a base station, by its number; after the last one the first comes again."""
        name, certificate_path, key_path = self._places[(number - self._first) % len(self)]
        return name, _credential(certificate_path, key_path, self._chain)


@dataclass(frozen=True, slots=True)
class Origin:
    """Which files base stations come from; each process of a simulation opens them for itself.

    Args:
        certificate: Of the vendor's CA, PEM, those above it may follow; None where `devices` is given.
        key: Its private key, PEM; with its password.
        chain: Further certificates that base stations send, PEM.
        name: Of base stations that are made.
        devices: Directory of base stations.
        first: Number of the first one.
    """

    certificate: Path | None = None
    key: Path | None = None
    password: bytes | None = None
    chain: tuple[Path, ...] = ()
    name: str = "sim-{n}"
    key_kind: str = "p256"
    devices: Path | None = None
    first: int = 1

    def open(self) -> Source:
        """Read what is needed to give base stations.

        Raises:
            ConfigError: A file cannot be used; of a directory, the first base station.
        """
        chain = [item for path in self.chain for item in load_certificates(path, "--chain")]
        if self.devices is not None:
            shelf = Shelf(_places(self.devices), self.first, chain)
            shelf.take(self.first)
            return shelf
        assert self.certificate is not None
        assert self.key is not None
        own, *above = load_certificates(self.certificate, "--vendor-cert")
        if not own.is_ca:
            raise ConfigError.of(
                "--vendor-cert",
                f"{own.subject} is no CA",
                "Give the CA that certifies base stations, or a directory of base stations with --devices",
            )
        require_private_key(self.key, "--vendor-key")
        key = load_private_key(self.key, self.password, "--vendor-key")
        sent = tuple(item for item in (*above, *chain) if not item.self_issued)
        make_credential(own, sent, key, "--vendor-key")  # refuses another key's
        authority = DeviceCA(own, key, sent, self.key_kind, now)
        try:
            authority.make_device("sim")
        except TypeError as error:  # of a key in an HSM
            raise ConfigError.of(
                "--vendor-key",
                "certificates are made with a key in a file alone",
                "Give such a key",
            ) from error
        return Maker(authority, self.name)


def count_devices(directory: Path) -> int:
    """Return how many base stations are in a directory.

    Raises:
        ConfigError: There is none.
    """
    return len(_places(directory))


def _places(directory: Path) -> list[tuple[str, Path, Path]]:
    found = []
    for path in sorted(directory.iterdir(), key=lambda path: (len(path.name), path.name)):
        if path.is_dir():
            certificate, key = path / "cert.pem", path / "key.pem"
        elif path.suffix == ".pem":
            certificate, key = path, path.with_suffix(".key")
        else:
            continue
        if certificate.is_file() and key.is_file():
            found.append((path.stem if path.is_file() else path.name, certificate, key))
    if not found:
        raise ConfigError.of("--devices", f"no base station is in {directory}", _NO_DEVICE)
    return found


def _credential(certificate_path: Path, key_path: Path, chain: tuple[Any, ...]) -> Credential:
    own, *above = load_certificates(certificate_path, "--devices")
    if own.is_ca:
        raise ConfigError.of(
            "--devices", f"{certificate_path} is the certificate of a CA", _NO_DEVICE
        )
    require_private_key(key_path, "--devices")
    key = load_private_key(key_path, None, "--devices")
    sent = tuple(item for item in (*above, *chain) if not item.self_issued)
    return make_credential(own, sent, key, str(key_path))
