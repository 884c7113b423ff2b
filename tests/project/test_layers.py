"""What import-linter cannot check: one subpackage of a library, and calls that read a clock."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ra_gateway"
ASN1_MODULE = PACKAGE / "cmp" / "asn1.py"
PURE = [
    PACKAGE / "errors.py",
    PACKAGE / "events.py",
    *sorted((PACKAGE / "cmp").rglob("*.py")),
    *(
        PACKAGE / "ra" / f"{name}.py"
        for name in (
            "ca_answers",
            "machine",
            "policy",
            "response_checks",
            "revocation_policy",
            "schema4",
            "transaction",
        )
    ),
]

# date.today and datetime.now read a clock; the others draw random bytes.
IMPURE_CALLS = {
    "now",
    "utcnow",
    "today",
    "urandom",
    "generate",
    "generate_key",
    "generate_private_key",
    "random_serial_number",
    "token_bytes",
    "uuid4",
}
# import-linter sees only whole libraries: urllib.parse is pure, urllib.request is not.
IMPURE_MODULES = ("os", "random", "secrets", "time", "urllib.request", "uuid")


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of everything a module imports, at whatever depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def impurities(source: str) -> list[str]:
    """Return what in a module reads a clock or draws randomness."""
    tree = ast.parse(source)
    impure = tuple(f"{module}." for module in IMPURE_MODULES)
    found = [name for name in imports(tree) if f"{name}.".startswith(impure)]
    for node in ast.walk(tree):
        # A mention is enough: `clock = datetime.now` reads the clock just as well.
        if isinstance(node, ast.Attribute) and node.attr in IMPURE_CALLS:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom):
            found += [alias.name for alias in node.names if alias.name in IMPURE_CALLS]
    return found


def imports_hazmat_asn1(source: str) -> bool:
    """Tell whether a module imports `cryptography.hazmat.asn1`, in any spelling."""
    return any(
        f"{name}.".startswith("cryptography.hazmat.asn1.") for name in imports(ast.parse(source))
    )


def test_only_one_module_knows_the_asn1_library() -> None:
    """cryptography.hazmat.asn1 is unstable, so that one module alone imports it."""
    users = [p for p in PACKAGE.rglob("*.py") if imports_hazmat_asn1(p.read_text())]
    assert users == [ASN1_MODULE]


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_core_reads_no_clock_and_draws_no_randomness(path: Path) -> None:
    """Time and random bytes come into cmp, ra/transaction.py and ra/policy.py as arguments."""
    assert impurities(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import secrets",
        "from os import urandom",
        "from urllib.request import urlopen",
        "def f():\n    import random",
        "from datetime import datetime\nx = datetime.now(UTC)",
        "import datetime\nx = datetime.datetime.utcnow()",
        "clock = datetime.now",
        "from cryptography import x509\nn = x509.random_serial_number()",
        "key = Ed25519PrivateKey.generate()",
    ],
)
def test_the_check_finds_impurities(source: str) -> None:
    """The check above is not blind."""
    assert impurities(source) != []


def test_the_check_lets_pure_code_pass() -> None:
    """Times that are values are not clocks, and taking a URL apart is not I/O."""
    assert impurities("from datetime import datetime\nx = datetime(2026, 1, 1) + delta") == []
    assert impurities("from urllib.parse import urlsplit") == []


@pytest.mark.parametrize(
    "source",
    [
        "import cryptography.hazmat.asn1",
        "import cryptography.hazmat.asn1 as library",
        "from cryptography.hazmat import asn1",
        "from cryptography.hazmat.asn1 import TLV",
        "from cryptography.hazmat.asn1.asn1 import TLV",
    ],
)
def test_the_check_finds_every_spelling_of_the_import(source: str) -> None:
    """The check for the ASN.1 library is not blind."""
    assert imports_hazmat_asn1(source)


def test_the_check_knows_other_modules_of_the_same_library() -> None:
    """Everybody may use the rest of hazmat."""
    assert not imports_hazmat_asn1("from cryptography.hazmat.primitives import hashes")


# --- object identifiers ----------------------------------------------------------------------------------------

# By their first arcs: nothing else that is written with dots (an address, a version, a clause) begins so.
_DOTTED = re.compile(r"(?:0\.9\.2342|1\.2\.840|1\.3\.\d+|2\.5\.(?:4|29)|2\.16\.840)\.[\d.]*")


def dotted(source: str) -> list[str]:
    """Return the object identifiers, or their beginnings, in a module: texts for people may mention one."""
    return [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _DOTTED.fullmatch(node.value)
    ]


def test_each_object_identifier_stands_once() -> None:
    """A second spelling, or a second name, would be a second place to look for its uses."""
    oids = PACKAGE / "cmp" / "oids.py"
    elsewhere = {path: dotted(path.read_text()) for path in PACKAGE.rglob("*.py") if path != oids}
    assert {path: found for path, found in elsewhere.items() if found} == {}
    assert [oid for oid, times in Counter(dotted(oids.read_text())).items() if times > 1] == []


def test_the_check_finds_object_identifiers() -> None:
    """Whole ones and beginnings; not addresses, versions, and what a text for operators mentions."""
    assert dotted('{"2.5.29.37": f"2.16.840.1.101.3.4.1.{arc}"}') == [
        "2.5.29.37",
        "2.16.840.1.101.3.4.1.",
    ]
    assert dotted("x = ('0.0.0.0', '2.5.0', 'serialNumber (2.5.4.5)', '1.2.3.4')") == []


# --- names ------------------------------------------------------------------------------------------------------


def names_by_number(source: str) -> list[str]:
    """Return the texts in which a name is put as it is compared and stored: people get `readable`."""
    return [
        ast.unparse(text)
        for text in ast.walk(ast.parse(source))
        if isinstance(text, ast.JoinedStr)
        for call in ast.walk(text)
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", getattr(call.func, "attr", "")) == "rfc4514"
    ]


def test_people_are_shown_attributes_by_their_names() -> None:
    """In whatever is written for them; `names` itself makes the texts that are compared."""
    shown = {path: names_by_number(path.read_text()) for path in PACKAGE.rglob("*.py")}
    del shown[PACKAGE / "cmp" / "names.py"]
    assert {path: found for path, found in shown.items() if found} == {}


def test_the_check_finds_names_by_number() -> None:
    assert names_by_number("f'{names.rfc4514(der)} is unknown'") != []
    assert names_by_number("f'{readable(der)} is not {rfc4514}'; rfc4514(der)") == []


# --- the heart of the gateway ---------------------------------------------------------------------------------

HEART = PACKAGE / "ra"


def mentions(name: str, directory: Path = PACKAGE) -> set[str]:
    """Return the modules that use a name, whatever for."""
    found = set()
    for path in directory.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            used = (
                node.id if isinstance(node, ast.Name)
                else node.attr if isinstance(node, ast.Attribute)
                else node.name if isinstance(node, ast.alias)
                else ""
            )  # fmt: skip
            if used == name:
                found.add(path.relative_to(PACKAGE).as_posix())
    return found


def test_only_the_machine_advances_a_transaction() -> None:
    """Every change of a transaction's state is one of its functions."""
    assert mentions("advance") == {"ra/machine.py"}


def test_only_one_loop_compares_and_sets() -> None:
    """Nobody but it sees that a race was lost; stores say so."""
    raised = {"stores/memory.py", "stores/redis.py"}
    assert mentions("StaleTransaction") - raised == {"ra/transactions.py"}


def test_only_one_module_makes_messages_to_devices() -> None:
    """Nothing is signed in the heart but there, and for the CA."""
    makers = ("protect", "protect_reply", "assemble", "unreadable_reply", "refusal_body")
    for name in makers:
        assert mentions(name, HEART) <= {"ra/responses.py", "ra/forwarding.py"}, name
    assert mentions("reply_header", HEART) == {"ra/responses.py"}


def test_a_new_quirk_touches_two_files() -> None:
    """One with its name and meaning, which tables read, one with its check; doctor knows what to say of a CA's."""
    text_of = {
        path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")
    }
    users = {
        kind: {path for path, text in text_of.items() if re.search(rf"\b{kind}\.[a-z]", text)}
        for kind in ("Quirk", "CAQuirk")
    }
    assert users["Quirk"] == {"cmp/quirks.py", "cmp/header_checks.py"}
    assert users["CAQuirk"] == {"ra/response_checks.py", "app/doctor/responses.py"}


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    """700 lines."""
    lines = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert [path.name for path, count in lines.items() if count > 700] == []
    assert len(lines) > 100
