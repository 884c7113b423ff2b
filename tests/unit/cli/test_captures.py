"""What `ra-gateway show` reads: dumps as their tools write them, packets, and HTTP around a message."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ra_gateway.cli import captures
from ra_gateway.cli.captures import (
    MAX_INPUT_OCTETS,
    CannotShow,
    Incomplete,
    read_message,
    read_messages,
)
from ra_gateway.cmp import asn1

LENGTHS = (64, 73, 80, 95, 300, 1537)


def message_of(length: int, seed: int = 7) -> bytes:
    """A SEQUENCE of so many octets, whatever is in it: text that looks like hexadecimal, zeros, and the rest."""
    chosen = random.Random(seed)
    head = b"deadbeef 00 11 22 | > 0000: " + bytes(48)
    octets = head + bytes(chosen.choices((*b"abcdef0123 |>*", *range(256)), k=length))
    for size in range(length, 0, -1):
        der = asn1.tlv(0x30, octets[:size])
        if len(der) == length:
            return der
    raise AssertionError(length)


def chunks(octets: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    for at in range(0, len(octets), size):
        yield at, octets[at : at + size]


def seen(octets: bytes) -> str:
    return "".join(chr(octet) if 0x20 <= octet < 0x7F else "." for octet in octets)


def xxd(der: bytes, columns: int = 16, group: int = 2, *, upper: bool = False) -> str:
    lines = []
    for at, part in chunks(der, columns):
        groups = [item.hex() for _, item in chunks(part, group)]
        width = columns * 2 + -(-columns // group) - 1
        text = " ".join(groups).ljust(width)
        lines.append(f"{at:08x}: {text.upper() if upper else text}  {seen(part)}\n")
    return "".join(lines)


def hexdump_canonical(der: bytes) -> str:
    lines, before, starred = [], b"", False
    for at, part in chunks(der, 16):
        if part == before and len(part) == 16:
            if not starred:
                lines.append("*\n")
            starred = True
            continue
        before, starred = part, False
        halves = [part[:8].hex(" ").ljust(23), part[8:].hex(" ").ljust(23)]
        lines.append(f"{at:08x}  {'  '.join(halves)}  |{seen(part)}|\n")
    return "".join(lines) + f"{len(der):08x}\n"


def hexdump_words(der: bytes) -> str:
    lines = []
    for at, part in chunks(der, 16):
        words = [item.ljust(2, b"\0")[::-1].hex() for _, item in chunks(part, 2)]
        lines.append(f"{at:07x} {' '.join(words)}\n")
    return "".join(lines) + f"{len(der):07x}\n"


def od(der: bytes, radix: str = "o") -> str:
    lines = [f"{at:07{radix}} {part.hex(' ')}\n" for at, part in chunks(der, 16)]
    return "".join(lines) + f"{len(der):07{radix}}\n"


def wireshark(der: bytes, *, gap: bool = False, text: bool = True, dots: str = "  ") -> str:
    """ "...as Hex + ASCII Dump", with or without its text; older ones have a gap in the middle."""
    lines = []
    for at, part in chunks(der, 16):
        octets = part.hex(" ")
        if gap and len(part) > 8:
            octets = f"{part[:8].hex(' ')}  {part[8:].hex(' ')}"
        column = f"{octets.ljust(48 if gap else 47)}   {seen(part)}" if text else octets
        lines.append(f"{at:04x}{dots}{column}\n")
    return "".join(lines)


def tcpdump(packet: bytes, *, text: bool = False) -> str:
    """One packet as of -x, or of -X with its text."""
    lines = ["12:00:00.000001 IP 192.0.2.1.40000 > 192.0.2.2.8080: Flags [P.], length 99\n"]
    for at, part in chunks(packet, 16):
        words = " ".join(item.hex() for _, item in chunks(part, 2))
        lines.append(f"\t0x{at:04x}:  {words.ljust(39)}{f'  {seen(part)}' if text else ''}\n")
    return "".join(lines)


def c_array(der: bytes, name: str = "ir_der") -> str:
    body = ",\n  ".join(
        ", ".join(f"0x{octet:02x}" for octet in part) for _, part in chunks(der, 12)
    )
    return f"unsigned char {name}[] = {{\n  {body}\n}};\nunsigned int {name}_len = {len(der)};\n"


def escaped(der: bytes) -> str:
    lines = [
        '"' + "".join(f"\\x{octet:02x}" for octet in part) + '"' for _, part in chunks(der, 16)
    ]
    return " \\\n".join(lines)


def trace(der: bytes) -> str:
    """What curl --trace writes of an upload."""
    head = f"POST /pkix HTTP/1.1\r\nContent-Length: {len(der)}\r\n\r\n".encode()
    parts = (("=> Send header", head), ("=> Send data", der))
    return "== Info: Connected to ra.example.net\n" + "".join(
        f"{what}, {len(octets)} bytes (0x{len(octets):x})\n"
        + "".join(
            f"{at:04x}: {part.hex(' ').ljust(48)}{seen(part)}\n" for at, part in chunks(octets, 16)
        )
        for what, octets in parts
    )


DUMPS: dict[str, Callable[[bytes], str]] = {
    "xxd": xxd,
    "xxd -c 7 -g 1 -u": lambda der: xxd(der, 7, 1, upper=True),
    "xxd -c 30": lambda der: xxd(der, 30),
    "xxd -c 256": lambda der: xxd(der, 256),
    "xxd -g 4": lambda der: xxd(der, 16, 4),
    "xxd -p": lambda der: "\n".join(part.hex() for _, part in chunks(der, 30)),
    "xxd -p -c 8": lambda der: "\n".join(part.hex() for _, part in chunks(der, 8)),
    "xxd -i": c_array,
    "xxd, indented": lambda der: re.sub("^", "    ", xxd(der), flags=re.MULTILINE),
    "xxd behind a prompt": lambda der: f"$ xxd ir.der\n{xxd(der)}$ \n",
    "hexdump -C": hexdump_canonical,
    "hexdump": hexdump_words,
    "od -t x1": od,
    "od -A x -t x1": lambda der: od(der, "x"),
    "od -A d -t x1": lambda der: od(der, "d"),
    "Wireshark": wireshark,
    "Wireshark, three blanks": lambda der: wireshark(der, dots="   "),
    "Wireshark, a gap": lambda der: wireshark(der, gap=True),
    "Wireshark, no text": lambda der: wireshark(der, text=False),
    "Wireshark, a hex stream": lambda der: der.hex(),
    "Wireshark, an escaped string": escaped,
    "Wireshark, a C array": lambda der: c_array(der, "pkt1"),
    "tcpdump -x of the octets": tcpdump,
    "tcpdump -X of the octets": lambda der: tcpdump(der, text=True),
    "curl --trace": trace,
    "base64": lambda der: base64.encodebytes(der).decode(),
    "C octets without a name": lambda der: ", ".join(f"0x{octet:X}" for octet in der),
    "groups of four digits": lambda der: "\n".join(part.hex(" ", 2) for _, part in chunks(der, 32)),
}


@pytest.mark.parametrize("form", DUMPS)
def test_dumps_go_round(form: str) -> None:
    """Every octet and no other, whatever the text beside the octets looks like, and wherever the last line ends."""
    for length in LENGTHS:
        der = message_of(length)
        text = DUMPS[form](der)
        for data in (text, text.replace("\n", "\r\n"), f"\n{text}\n"):
            assert read_message(data.encode()) == der, length


def test_a_dump_that_a_windows_shell_wrote() -> None:
    """UTF-16 or UTF-8 with its mark; text beside the octets may have other characters than ASCII."""
    der = message_of(80)
    assert read_message(xxd(der).encode("utf-16")) == der
    assert read_message(b"\xef\xbb\xbf" + xxd(der).encode()) == der
    assert read_message(xxd(der).replace("...", "·…·").encode()) == der


@given(st.binary(min_size=40, max_size=200), st.sampled_from(sorted(DUMPS)))
def test_any_octets_go_round(octets: bytes, form: str) -> None:
    der = asn1.tlv(0x30, octets)
    assert read_message(DUMPS[form](der).encode()) == der


# --- packets and HTTP ---------------------------------------------------------------------------------------------


def http(der: bytes, *, chunked: bool = False) -> bytes:
    how = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(der)
    head = b"POST /.well-known/cmp HTTP/1.1\r\nHost: ra\r\nContent-Type: application/pkixcmp\r\n"
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for _, part in chunks(der, 100))
    return head + how + b"\r\n\r\n" + (body + b"0\r\n\r\n" if chunked else der)


def packets(stream: bytes, *, ip: int = 4, link: bytes = b"") -> list[bytes]:
    """TCP segments of 200 octets that carry a stream, the second one twice, the last two in the wrong order."""
    made = []
    for at, payload in [(0, b""), *chunks(stream, 200)]:
        number = (0xFFFFFF00 + at) % (1 << 32)
        tcp = b"\x9c\x40\x1f\x90" + number.to_bytes(4, "big") + bytes(4) + b"\x50\x18" + bytes(6)
        tcp += payload
        if ip == 4:
            head = (
                b"\x45\x00" + (20 + len(tcp)).to_bytes(2, "big") + bytes(4) + b"\x40\x06" + bytes(2)
            )
            made.append(link + head + b"\xc0\x00\x02\x01\xc0\x00\x02\x02" + tcp)
        else:
            head = b"\x60\x00\x00\x00" + len(tcp).to_bytes(2, "big") + b"\x06\x40"
            made.append(link + head + bytes(32) + tcp)
    return [*made[:2], made[1], *made[2:-2], made[-1], made[-2]]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("form", ["octets", "xxd", "hex", "C arrays", "streams"])
def test_a_message_in_http(form: str, chunked: bool) -> None:
    """The body is found behind the header, in a saved stream and in dumps of it."""
    der = message_of(300)
    stream = http(der, chunked=chunked)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    if form == "octets":
        assert read_message(stream) == der
        assert read_message(answer + stream) == der
        return
    text = {
        "xxd": xxd(stream),
        "hex": xxd(answer + stream),
        "C arrays": c_array(stream[:70], "peer0_0") + c_array(stream[70:], "peer0_1"),
        "streams": wireshark(stream) + re.sub("^", "    ", wireshark(answer), flags=re.MULTILINE),
    }[form]
    assert read_message(text.encode()) == der


def test_a_body_that_is_text() -> None:
    """Base64 or hex behind the header."""
    der = message_of(80)
    for body in (base64.encodebytes(der), der.hex().encode()):
        assert read_message(b"HTTP/1.1 200 OK\nContent-Type: text/plain\n\n" + body) == der


ETHERNET = bytes(12) + b"\x08\x00"
LINKS = {
    "IP": (4, b""),
    "Ethernet": (4, ETHERNET),
    "802.1Q": (4, bytes(12) + b"\x81\x00\x00\x05\x08\x00"),
    "cooked": (4, bytes(14) + b"\x08\x00"),
    "IPv6": (6, b""),
    "IPv6 in Ethernet": (6, bytes(12) + b"\x86\xdd"),
}


@pytest.mark.parametrize("link", LINKS)
def test_a_message_in_packets(link: str) -> None:
    """Headers of link, IP and TCP are taken off; segments come twice and out of order; other packets do no harm."""
    der = message_of(1537)
    version, head = LINKS[link]
    made = packets(http(der), ip=version, link=head)
    for dump in (tcpdump, lambda packet: tcpdump(packet, text=True), wireshark):
        text = "\n".join(map(dump, [bytes(60), *made]))
        assert read_message(text.encode()) == der


def pcap(made: list[bytes], order: Literal["little", "big"] = "little") -> bytes:
    head = 0xA1B2C3D4.to_bytes(4, order) + bytes(16) + (1).to_bytes(4, order)
    return head + b"".join(
        bytes(8) + 2 * len(packet).to_bytes(4, order) + packet for packet in made
    )


def block(kind: int, content: bytes, order: Literal["little", "big"]) -> bytes:
    content += bytes(-len(content) % 4)
    length = (12 + len(content)).to_bytes(4, order)
    return kind.to_bytes(4, order) + length + content + length


def pcapng(made: list[bytes], order: Literal["little", "big"] = "little") -> bytes:
    """A section, an interface, a packet of each kind of block in turn, and statistics."""
    blocks = [
        block(0x0A0D0D0A, 0x1A2B3C4D.to_bytes(4, order) + bytes(12), order),
        block(1, (1).to_bytes(2, order) + bytes(6), order),
    ]
    for number, packet in enumerate(made):
        size = len(packet).to_bytes(4, order)
        content = (size if number % 2 else bytes(12) + 2 * size) + packet
        blocks.append(block(3 if number % 2 else 6, content, order))
    return b"".join((*blocks, block(5, bytes(12), order)))


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("form", [pcap, pcapng])
def test_a_file_of_packets(form: Callable[..., bytes], order: str) -> None:
    """As tcpdump -w and Wireshark write them; one that is cut off has what is before the cut."""
    der = message_of(1537)
    data = form([bytes(60), *packets(http(der), link=ETHERNET)], order)
    assert list(read_messages(data)) == [der]
    with pytest.raises(CannotShow, match="its Content-Length says 1537"):
        read_message(data[:-900])
    with pytest.raises(CannotShow, match="no CMP message in them"):
        read_message(form([bytes(60)], order))


@pytest.mark.parametrize("form", [pcap, pcapng])
def test_a_file_of_one_packet(form: Callable[..., bytes]) -> None:
    """A short message is in one."""
    der = message_of(95)
    empty, stream = packets(bytes(300), link=ETHERNET)[0], http(der)
    packet = empty[:16] + (40 + len(stream)).to_bytes(2, "big") + empty[18:] + stream
    assert list(read_messages(form([packet]))) == [der]
    assert read_message(tcpdump(packet).encode()) == der


@pytest.mark.parametrize("form", [pcap, pcapng])
def test_a_card_whose_address_begins_like_a_message(form: Callable[..., bytes]) -> None:
    der = message_of(300)
    link = b"\x30" + ETHERNET[1:]
    assert list(read_messages(form(packets(http(der), link=link)))) == [der]


class Counted(bytes):
    """Counts how many octets are copied out of it, and out of the copies."""

    copied = 0

    def __getitem__(self, key: SupportsIndex | slice[Any, Any, Any]) -> Any:
        found = super().__getitem__(key)
        if isinstance(found, int):
            return found
        Counted.copied += len(found)
        return Counted(found)


def test_of_many_small_messages_none_is_copied_with_all_behind_it() -> None:
    """A file may have millions."""
    data, Counted.copied = Counted(bytes.fromhex("30043000a000") * 2000), 0
    assert sum(1 for _ in captures._one_by_one(data)) == 2000
    assert Counted.copied < 10 * len(data)


VECTORS = Path(__file__).parents[2] / "vectors"
DIALOGUE = [(VECTORS / f"{name}.der").read_bytes() for name in ("ir", "ip", "certconf", "pkiconf")]


def answered(der: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/pkixcmp\r\nContent-Length: %d\r\n\r\n"
    return head % len(der) + der


def pem(der: bytes) -> str:
    return f"-----BEGIN CMP-----\n{base64.encodebytes(der).decode()}-----END CMP-----\n"


def dialogue_in_packets() -> bytes:
    """Both directions of one connection."""
    ir, ip, certconf, pkiconf = DIALOGUE
    there = packets(http(ir, chunked=True) + http(certconf), link=ETHERNET)
    back = [
        packet.replace(b"\x9c\x40\x1f\x90", b"\x1f\x90\x9c\x40", 1)
        for packet in packets(answered(ip) + answered(pkiconf), link=ETHERNET)
    ]
    return pcap([*there, *back])


SEVERAL: dict[str, bytes] = {
    "one behind the other": b"".join(DIALOGUE),
    "PEM": "".join(map(pem, DIALOGUE)).encode(),
    "dumps": "\n".join(map(xxd, DIALOGUE)).encode(),
    "hex": b"".join(DIALOGUE).hex().encode(),
    "C arrays": "\n".join(map(c_array, DIALOGUE)).encode(),
    "HTTP": b"".join(map(answered, DIALOGUE)),
    "HTTP in a dump": xxd(b"".join(map(answered, DIALOGUE))).encode(),
    "curl --trace": "\n".join(map(trace, DIALOGUE)).encode(),
    "packets": dialogue_in_packets(),
}


@pytest.mark.parametrize("form", SEVERAL)
def test_several_messages(form: str) -> None:
    """All of them, in their order; of one that is not all there, it is told behind them."""
    assert list(read_messages(SEVERAL[form])) == DIALOGUE
    found = read_messages(answered(DIALOGUE[0]) + answered(DIALOGUE[1])[:-1])
    assert next(found) == DIALOGUE[0]
    with pytest.raises(Incomplete, match="octets behind its header"):
        next(found)


# --- what is wrong with a dump ------------------------------------------------------------------------------------


def without(text: str, number: int) -> str:
    lines = text.splitlines()
    return "\n".join(lines[: number - 1] + lines[number:])


def changed(text: str, number: int, old: str, new: str) -> str:
    lines = text.splitlines()
    assert old in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(old, new, 1)
    return "\n".join(lines)


GOOD = xxd(asn1.tlv(0x30, b"\x11" * 100))
PLAIN = "\n".join(part.hex() for _, part in chunks(asn1.tlv(0x30, b"\x11" * 100), 16))

WRONG = {
    "a line is missing": (without(GOOD, 4), "Line 3 has 16 octets, and 32 by the offset of line 4"),
    "the first is missing": (without(GOOD, 1), "Line 1 is of a dump at offset 0x00000010"),
    "a digit is missing": (changed(GOOD, 3, "1111 ", "111 "), "Line 3 has 0 octets, and 16"),
    "a letter": (changed(GOOD, 3, "1111 1111", "1111 11x1"), "Line 3 has 2 octets, and 16"),
    "an octet too few": (changed(GOOD, 5, "1111 ", "11 "), "Line 5 has"),
    "an offset that goes back": (
        changed(GOOD, 4, "00000030", "00000010"),
        "Line 4 has offset 0x00000010, which does not follow 0x00000020 of line 3",
    ),
    "a letter in the last line": (changed(GOOD, 7, "1111", "11yy"), "Line 7 is not hexadecimal"),
    "a line of something else": (
        changed(GOOD, 4, "00000030: 1111 1111", "--More--"),
        "Line 4 is no line of the dump around it: --More--",
    ),
    "a letter in plain hex": (changed(PLAIN, 3, "11", "1g"), "Line 3 is not hexadecimal"),
    "a digit in plain hex": (changed(PLAIN, 5, "11", "1"), "Line 5 has an odd number"),
    "no message": (xxd(b"\x00" * 40), "40 octets, and no CMP message"),
    "a short body": ("HTTP/1.1 200 OK\nContent-Length: 99\n\n3000", "says 99"),
    "no body": ("GET / HTTP/1.1\r\nHost: ra\r\n\r\n", "no body"),
    "a broken chunk": ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nzz\n", "chunks"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_dump_is_told_with_its_line(case: str) -> None:
    """Nothing is shown that may not be what there was."""
    text, why = WRONG[case]
    with pytest.raises(CannotShow, match=re.escape(why)):
        read_message(text.encode())


@pytest.mark.parametrize(
    "data",
    [
        b"0" * (MAX_INPUT_OCTETS + 1),
        b"00000000: 30\n" + b"*\n00ffffff: 30\n" * 1_000,
        b"x[]={" * 200_000,
        b"0x00,  " * 50_000 + b"!",
        b"POST / HTTP/1.1\n" * 100_000,
        b'"\\x30' * 200_000,
        b" " * 400_000 + b"!",
        b"0000: " + b"30 " * 100_000 + b"zz",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\nx\n" * 400_000 + b"0\n\n",
        b"HTTP/1.1 200\n\n" * 400_000,
    ],
    ids=[
        "long",
        "stars",
        "arrays",
        "octets",
        "heads",
        "escapes",
        "blanks",
        "one line",
        "chunks",
        "empty messages",
    ],
)
def test_what_is_made_to_be_dear_is_not(data: bytes) -> None:
    """Refused, or read, in a time that grows with its length and no faster."""
    with suppress(CannotShow):
        read_message(data)


def test_what_dumps_claim_together_is_bounded() -> None:
    """Each of them says in 26 characters that it has 16 MiB, less a little."""
    one = "0000 00 00\n0002 00 00\n*\nfffff0\n"
    with pytest.raises(CannotShow, match="does not follow"):
        read_message((one * 2).encode())


@pytest.mark.parametrize("size", [16, 17])
def test_a_first_line_that_repeats(size: int) -> None:
    """As xxd -a and hexdump print a message whose octets are all the same."""
    line = " ".join(["30"] * 16)
    text = f"00000000  {line}\n*\n00000040  {' '.join(['31'] * (size - 16))}\n"
    assert read_message(text.encode()) == b"0" * 64 + b"1" * (size - 16)
