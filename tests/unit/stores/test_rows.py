"""Files with a row for each device: the inventory, shared secrets and end entities are read by the same rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from ra_gateway.errors import ConfigError
from ra_gateway.stores.inventory import COLUMNS, CSVInventory
from ra_gateway.stores.rows import MAX_LINE_OCTETS, MAX_PROBLEMS
from ra_gateway.stores.secrets import SecretFile
from tests.support.transactions import system_clock

HEADER = ",".join(COLUMNS) + "\n"
GOOD = "acme,SN1,CN=enb-1,dns:enb-1 dns:enb-one,true\n"


def read(tmp_path: Path, content: str | bytes) -> CSVInventory:
    path = tmp_path / "devices.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return CSVInventory(path)


def refused(tmp_path: Path, content: str | bytes) -> list[str]:
    """Return what is said of an inventory, without the name of its file."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content)
    return [
        str(problem).replace(str(tmp_path / "devices.csv"), "FILE")
        for problem in caught.value.problems
    ]


@pytest.mark.parametrize(
    "content",
    [
        HEADER + GOOD,
        "\ufeff" + HEADER + GOOD,
        (HEADER + GOOD).replace("\n", "\r\n"),
        HEADER + "\n" + GOOD.rstrip() + "\n\n",
        HEADER + ' acme , SN1 ,"CN=enb-1",dns:enb-1 dns:enb-one,TRUE',
        (HEADER + GOOD).replace(",", ";"),
        "\ufeff" + (HEADER + GOOD).replace(",", ";").replace("\n", "\r\n"),
        f"# north\n{HEADER}# tower 1, the old one's successor: \"x\n{GOOD}#acme,SN2,,,true\n",
        f"\ufeff# north\n{HEADER}{GOOD}",
    ],
    ids=[
        "plain",
        "BOM",
        "CRLF",
        "blank lines",
        "quotes",
        "semicolons",
        "Excel",
        "comments",
        "BOM and comment",
    ],
)
async def test_good_files(content: str, tmp_path: Path) -> None:
    """However a spreadsheet writes them."""
    inventory = read(tmp_path, content)
    assert len(inventory) == 1
    found = await inventory.find("acme", "SN1")
    assert found is not None
    assert (found.subject, found.san, found.enabled) == (
        "CN=enb-1",
        ("dns:enb-1", "dns:enb-one"),
        True,
    )


@pytest.mark.parametrize(
    "line,what",
    [
        ("acme,SN2,CN=a,O=b,,true\n", "has more or fewer columns than the header (6, not 5)"),
        ("acme,SN2,,\n", "has more or fewer columns than the header (4, not 5)"),
        ("acme;SN2;;;true\n", "has more or fewer columns than the header (1, not 5)"),
        ('acme,"SN2,CN=a,,true\n', "has a quotation mark that is not closed"),
        ('acme,"SN2"x,CN=a,,true\n', "has a quotation mark that is not closed, or one within"),
        ("acme,SN\x002,,,true\n", "has a character that cannot be seen, \\x00, at 8"),
        ("acme,SN2\r,,,true\n", "has a character that cannot be seen, \\r, at 9"),
        ("acme,SN2,CN=\u202eevil,,true\n", "has a character that cannot be seen, \\u202e, at 13"),
        (",SN2,,,true\n", "domain empty"),
        ("acme,,,,true\n", "identity empty"),
        ("acme,SN2,,,yes\n", "enabled is neither true nor false"),
        ("acme,SN1,,,false\n", "SN1 of acme is listed in line 2 already"),
        (" acme , SN1 ,,,false\n", "SN1 of acme is listed in line 2 already"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named(line: str, what: str, tmp_path: Path) -> None:
    """By file and line; and the lines behind it are read as what they are."""
    said = refused(tmp_path, HEADER + GOOD + line + "acme,SN3,,,maybe\n")
    assert len(said) == 2
    assert said[0].startswith(f"FILE:3: {what}")
    assert said[1].startswith("FILE:4: enabled is neither")


@pytest.mark.parametrize(
    "names,what",
    [
        (f"CN=a,O={'x' * 65}", "attribute O has 65 characters; 64 are allowed (RFC 5280 A.1)"),
        ("CN=a,C=D1", "attribute C is no country code of two letters"),
        ("CN={cn},OU=\uff52an", "attribute OU has letters in another form than NFKC"),
        ("2.5.4.5=a_1", "attribute serialNumber (2.5.4.5) has the character U+005F"),
        ("no name", "it is not a name in the form of RFC 4514"),
    ],
)  # fmt: skip
def test_a_subject_that_cannot_be_certified_is_named(names: str, what: str, tmp_path: Path) -> None:
    """At the start, not when the device asks."""
    (said,) = refused(tmp_path, HEADER + GOOD + f'acme,SN2,"{names}",,true\n')
    assert said.startswith("FILE:3: the subject ")
    assert what in said


@pytest.mark.parametrize(
    "name,what",
    [
        ("dns:e_nb.example.net", "is no host name"),
        ("dns:enb.example.net.", "is no host name"),
        ("dns:z\xfcrich.example.net", "it is not a name of this kind"),
        ("ip:192.0.2", "it is not a name of this kind"),
        ("uri:https://enb-1/", "neither a fully qualified name nor an address"),
        ("email:enb-1", "is no mailbox"),
    ],
)
def test_another_name_that_cannot_be_certified_is_named(
    name: str, what: str, tmp_path: Path
) -> None:
    """Among good ones, such as those with placeholders, and a wildcard that the operator lists."""
    good = "dns:{cn}.example.net ip:{2.5.4.13} dns:*.site.example.net"
    (said,) = refused(tmp_path, HEADER + f"acme,SN1,CN=a,{good} {name},true\n")
    assert said.startswith(f"FILE:2: {name!r} cannot be certified: ")
    assert what in said


def test_a_quotation_mark_swallows_nobody(tmp_path: Path) -> None:
    """Two rows between two forgotten marks are no value of one."""
    said = refused(tmp_path, HEADER + 'acme,"SN1,,,true\nacme,SN2,,,true\nacme,SN3",,,true\n')
    assert [text.split(": ")[0] for text in said] == ["FILE:2", "FILE:4"]


async def test_semicolons_leave_commas_to_the_values(tmp_path: Path) -> None:
    """As a spreadsheet in German or French writes them; and the header decides for all lines."""
    header = HEADER.replace(",", ";")
    inventory = read(
        tmp_path, header + 'acme;SN1;CN=enb-1,O=Example;;true\nacme;"#2";"CN=a\\;b";;true\n'
    )
    found = await inventory.find("acme", "SN1")
    assert found is not None
    assert found.subject == "CN=enb-1,O=Example"
    assert await inventory.find("acme", "#2") is not None
    said = refused(tmp_path, header + "acme,SN1,,,true\n")
    assert said[0].startswith("FILE:2: has more or fewer columns than the header (1, not 5)")


async def test_a_comment_may_be_in_any_encoding(tmp_path: Path) -> None:
    """It is not read; and a value may begin as one does."""
    content = f"# M\xfcnchen\n{HEADER}# K\xf6ln\n".encode("latin-1") + GOOD.encode()
    assert len(read(tmp_path, content)) == 1


def test_other_octets(tmp_path: Path) -> None:
    """What is no UTF-8 is named by its line, and a line without an end by its length."""
    said = refused(tmp_path, HEADER.encode() + b"acme,SN\xff,,,true\n")
    assert said[0].startswith("FILE:2: is no CSV in UTF-8 (octet 8)")
    said = refused(
        tmp_path, HEADER.encode() + b"acme," + b"x" * MAX_LINE_OCTETS + b",,,true\n" + GOOD.encode()
    )
    assert len(said) == 1
    assert said[0].startswith(f"FILE:2: is longer than {MAX_LINE_OCTETS} octets")


@pytest.mark.parametrize(
    "content,shown",
    [
        ("", "is missing"),
        ("\n" + GOOD, "is missing"),
        (HEADER.replace(",", "|"), "is domain|identity|subject|san|enabled"),
        ("domain;identity;subject;san\n", "is domain,identity,subject,san"),
        ("domain;identity,subject;san;enabled\n", "is domain;identity,subject;san;enabled"),
        ("# nothing else\n", "is missing"),
        ("identity,domain,subject,san,enabled\n", "is identity,domain"),
        ("\xff\xfe", "is"),
        ("x" * 20000, ""),
    ],
)
def test_another_header(content: str, shown: str, tmp_path: Path) -> None:
    """The whole file is not what was meant."""
    (said,) = refused(tmp_path, content)
    assert shown in said
    assert len(said) < 600


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """No traceback."""
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"inventory\.csv_path: .* cannot be read"):
            CSVInventory(path)


def test_many_wrong_lines(tmp_path: Path) -> None:
    """The first are named, and the rest is counted."""
    said = refused(tmp_path, HEADER + "x\n" * 100_000)
    assert len(said) == MAX_PROBLEMS + 1
    assert said[-1].startswith(f"FILE: has {100_000 - MAX_PROBLEMS} more lines")


def test_shared_secrets_are_read_alike(tmp_path: Path) -> None:
    """And no text repeats a secret, whatever is wrong with its line."""
    path = tmp_path / "secrets.csv"
    secret = "correct-horse-battery-staple"
    header = "reference,secret,subject,san,single_use,expires\n"
    path.write_text(
        header
        + f'r1,"{secret},CN=a,,false,\nr2,{secret},CN=a,O=b,,false,\nr3,{secret}\x00,CN=a,,false,\n'
        f"r4,{secret},CN=a,,false,\n"
    )
    with pytest.raises(ConfigError) as caught:
        SecretFile(path, clock=system_clock)
    assert [problem.path.rpartition(":")[2] for problem in caught.value.problems] == ["2", "3", "4"]
    assert secret not in str(caught.value)
    path.write_text("\ufeff" + header + f"r4,{secret},CN=a,,false,\n")
    assert len(SecretFile(path, clock=system_clock)) == 1
