"""What the signatures of an enrolment cost whoever verifies and makes them: three floors for the gateway's CPU time.

- alone: in a tight loop; the best the library can do.
- under load: a process beside the others verifies and signs once every 20 ms, so that its caches are as cold and its
  cores as shared as the gateway's; an upper bound.
- inside: as a gateway's own calls take, in the middle of its work. Taking the time costs some too, so that gateway is
  not the one whose CPU time is quoted.
"""

from __future__ import annotations

import atexit
import secrets
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

FULL_VERIFIES: Final = 7
"""ir: the device certificate's signature, protection, POP; ip: protection, the new certificate's signature;
certConf: protection; pkiConf: protection. CA certificates are verified once and remembered."""
FULL_SIGNS: Final = 4
"""ir' and certConf' to the CA, ip and pkiConf to the device."""
IMPLICIT_VERIFIES: Final = 5
IMPLICIT_SIGNS: Final = 2


@dataclass(frozen=True, slots=True)
class Floor:
    """CPU time of one P-256 operation, microseconds."""

    verify_us: float
    sign_us: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `__str__` wrote."""
        return cls(*map(float, text.split()))

    def __str__(self) -> str:
        return f"{self.verify_us} {self.sign_us}"

    def of(self, *, implicit: bool) -> float:
        """Return the microseconds of all signatures of an enrolment."""
        if implicit:
            return IMPLICIT_VERIFIES * self.verify_us + IMPLICIT_SIGNS * self.sign_us
        return FULL_VERIFIES * self.verify_us + FULL_SIGNS * self.sign_us


def operations() -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a verification and a signature over as many octets as a message has."""
    key = ec.generate_private_key(ec.SECP256R1())
    algorithm, octets = ec.ECDSA(hashes.SHA256()), secrets.token_bytes(900)
    signature, public_key = key.sign(octets, algorithm), key.public_key()
    return (
        lambda: public_key.verify(signature, octets, algorithm),
        lambda: key.sign(octets, algorithm),
    )


def measure_alone(rounds: int = 400) -> Floor:
    """Measure verify and sign; the best of five, since whatever disturbs only ever adds."""

    def cpu_us(operation: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(5):
            started = time.process_time()
            for _ in range(rounds):
                operation()
            best = min(best, (time.process_time() - started) / rounds * 1e6)
        return best

    return Floor(*map(cpu_us, operations()))


def sample() -> None:
    """Measure verify and sign once every 20 ms until standard input closes, then print both medians."""
    verify, sign = operations()
    verifies: list[float] = []
    signs: list[float] = []
    print("sampling", flush=True)
    while not verifies or not select.select([sys.stdin], [], [], 0.02)[0]:
        started = time.thread_time()
        verify()
        between = time.thread_time()
        sign()
        verifies.append(between - started)
        signs.append(time.thread_time() - between)
    print(_medians(verifies, signs))


@contextmanager
def under_load() -> Iterator[list[Floor]]:
    """Sample the floor in a process of its own while the block runs; the list has it afterwards."""
    found: list[Floor] = []
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.floors", "sample"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield found
    output, _ = process.communicate()
    found.append(Floor.parse(output))


def serve_timed(target: Path, arguments: list[str]) -> None:
    """Run `ra-gateway`, and write the medians of what its signatures took to a file when it ends."""
    from ra_gateway.cmp import algorithms

    verifies: list[float] = []
    signs: list[float] = []
    plain_verify = algorithms.verify_signature

    def verify_signature(*arguments: Any) -> None:
        started = time.thread_time()
        plain_verify(*arguments)
        verifies.append(time.thread_time() - started)

    setattr(algorithms, "verify_signature", verify_signature)  # noqa: B010 - before anybody has it by name
    from ra_gateway.keys import KeySigner

    plain_sign = KeySigner.sign

    async def sign(signer: KeySigner, octets: bytes) -> bytes:
        started = time.thread_time()
        signature = await plain_sign(signer, octets)
        signs.append(time.thread_time() - started)
        return signature

    setattr(KeySigner, "sign", sign)  # noqa: B010
    atexit.register(lambda: target.write_text(str(_medians(verifies, signs))))
    from ra_gateway.cli.main import main

    sys.argv[1:] = arguments
    main()


def _medians(verifies: list[float], signs: list[float]) -> Floor:
    return Floor(statistics.median(verifies) * 1e6, statistics.median(signs) * 1e6)


if __name__ == "__main__":
    if sys.argv[1] == "sample":
        sample()
    else:
        serve_timed(Path(sys.argv[2]), sys.argv[3:])
