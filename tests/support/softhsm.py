"""A real PKCS#11 token for tests: SoftHSM2, with everything it keeps in a temporary directory.

SoftHSM reads SOFTHSM2_CONF and looks for tokens once in a process, when its library starts. Hence one directory
for the whole session of tests, and all of its tokens made before anything loads the library. Commands that
tests start inherit the variable and see the same tokens.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

MODULES: Final = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
)
TOKENS: Final = ("ra", "ca", "guarded", "lost", "twin", "twin", "spare", "pinless")
"""Labels of the tokens; a test that spoils one takes one that no other test uses."""

PIN: Final = "1234-user"


@dataclass(frozen=True, slots=True)
class SoftHSM:
    """Tokens that are initialised and empty.

    Args:
        directory: Has `pin`, a file of mode 0600 with the PIN of every token.
        module_path: SoftHSM's library.
    """

    directory: Path
    module_path: Path

    @property
    def pin_path(self) -> Path:
        """File with the PIN."""
        return self.directory / "pin"

    def uri(
        self,
        label: str | None,
        *,
        token: str = "ra",
        key_id: bytes | None = None,
        pin_source: str | None = None,
        module_path: Path | None = None,
    ) -> str:
        """Return the URI of a private key (RFC 7512).

        Args:
            label: CKA_LABEL; `key_id` is CKA_ID. At least one of them.
            token: Label of the token, out of `TOKENS`.
            pin_source: By default the right PIN's file; "" leaves it out.
            module_path: By default SoftHSM's.
        """
        names = [f"token={quote(token, safe='')}"]
        if label is not None:
            names.append(f"object={quote(label, safe='')}")
        if key_id is not None:
            names.append("id=" + "".join(f"%{octet:02x}" for octet in key_id))
        source = f"file:{self.pin_path}" if pin_source is None else pin_source
        query = f"module-path={module_path or self.module_path}"
        return f"pkcs11:{';'.join(names)}?{query}" + (f"&pin-source={source}" if source else "")


def make_softhsm(directory: Path) -> SoftHSM:
    """Make the tokens; SOFTHSM2_CONF must then be `directory / "softhsm2.conf"`.

    Args:
        directory: An existing directory.

    Raises:
        FileNotFoundError: SoftHSM2 is not installed (Debian: softhsm2).
    """
    module = next((path for path in MODULES if path.exists()), None)
    if module is None:
        raise FileNotFoundError("SoftHSM2 is not installed; run `make test`, or install softhsm2")
    (directory / "tokens").mkdir()
    configuration = directory / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    for label in TOKENS:
        pins = ("--pin", PIN, "--so-pin", "5678-officer")
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", label, *pins],
            env={**os.environ, "SOFTHSM2_CONF": str(configuration)},
            check=True,
            capture_output=True,
        )
    hsm = SoftHSM(directory, module)
    hsm.pin_path.write_text(PIN + "\n")
    hsm.pin_path.chmod(0o600)
    return hsm


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHSM]:
    """The HSM of the session, for this process and those it starts."""
    directory = tmp_path_factory.mktemp("softhsm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(directory / "softhsm2.conf"))
        yield make_softhsm(directory)
