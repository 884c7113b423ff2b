"""What a base station may ask for, and do wrong, by the names that the command line has for it."""

from __future__ import annotations

from enum import StrEnum


class Request(StrEnum):
    """What it asks for."""

    ir = "ir"  # a first certificate
    cr = "cr"  # another one
    p10cr = "p10cr"  # one by a PKCS #10
    rr = "rr"  # that its own be revoked
    genm = "genm"  # information


class FleetRequest(StrEnum):
    """What each base station of a simulated fleet asks for first."""

    ir = "ir"
    cr = "cr"
    kur = "kur"  # a renewal
    p10cr = "p10cr"


class Question(StrEnum):
    """What a genm asks for (RFC 9483 4.3)."""

    caCerts = "caCerts"
    rootCaCert = "rootCaCert"
    certReqTemplate = "certReqTemplate"


class MACAlgorithm(StrEnum):
    """How messages are protected by a shared secret."""

    pbm = "pbm"  # PasswordBasedMac
    pbmac1 = "pbmac1"


class Fault(StrEnum):
    """What a base station does wrong."""

    clock = "clock"  # an hour ahead
    no_time = "no-time"  # no messageTime
    pop = "pop"  # a signature over something else as proof of possession
    protection = "protection"  # another one than over the message
    short_ids = "short-ids"  # transactionID and nonces of 4 octets
    no_chain = "no-chain"  # no certificate but its own in extraCerts
    request_id = "request-id"  # certReqId 7
    unknown_vendor = "unknown-vendor"  # a certificate of a vendor that nobody knows
