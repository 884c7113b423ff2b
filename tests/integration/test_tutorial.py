"""docs/tutorial.md from its first command to its last, in one directory and in the order of the page."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.support.openssl import load_certificate
from tests.support.ports import free_port
from tests.support.printed import Prompt, to_run
from tests.support.setups import edit

PAGE: Final = "docs/tutorial.md"
REFUSED: Final = "When it fails"


def test_the_tutorial(tmp_path: Path) -> None:
    """Each command does what the page says: the base station enrols, is refused another name, renews and is revoked."""
    ports = {port: str(free_port()) for port in ("8080", "8082", "9080")}
    prompt = Prompt(tmp_path, {f"127.0.0.1:{port}": f"127.0.0.1:{ports[port]}" for port in ports})
    output = ""
    with ExitStack() as serving:
        for command in to_run(PAGE):
            if "ra-gateway serve" in command.text:
                serving.enter_context(prompt.serving(command.text))
            elif command.section == REFUSED and "openssl" in command.text:
                assert "notAuthorized" in prompt.run(command.text).output
            else:
                output = prompt.succeeds(command.text)
            if "ra-gateway init" in command.text:
                config = tmp_path / "site/gateway.toml"
                for port in ("8080", "8082"):
                    edit(config, f"listen_port = {port}", f"listen_port = {ports[port]}")
                edit(
                    config,
                    "# [management]\n# listen_port = 9080",
                    f"[management]\nlisten_port = {ports['9080']}",
                )
            if "ra-gateway why" in command.text:
                assert "CN=another,O=Example Operator" in output
            if "/readyz" in command.text:
                assert output.startswith('{"ready": true')
    serial = load_certificate(tmp_path / "enb-1-next.pem").serial_number
    assert f"Serial Number: {serial:032X}" in output
    assert not (tmp_path / "other.pem").exists()
