"""Every line of the log: its name, its levels and fields, and what it says; each field means one thing wherever it is.

docs/log-fields.md is written from this, and tests hold what is logged against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple


class Kind(StrEnum):
    """What the values of a field are in JSON."""

    text = "text"
    hex = "hexadecimal text"
    moment = "text, a moment in UTC by ISO 8601"
    whole = "whole number"
    number = "number"
    texts = "list of texts"
    numbers = "list of whole numbers"
    named = "object of texts"


class Field(NamedTuple):
    """One field: what its values are, and what they mean."""

    kind: Kind
    meaning: str


class Line(NamedTuple):
    """One line.

    Args:
        levels: It may have.
        fields: Names out of `FIELDS` that it may have; a value that there is none of is left out.
        meaning: One plain sentence.
    """

    levels: tuple[str, ...]
    fields: tuple[str, ...]
    meaning: str


FRAME: Final[Mapping[str, Field]] = {
    "event": Field(Kind.text, "Name of the line, out of the tables below."),
    "level": Field(Kind.text, "`debug`, `info`, `warning` or `error`."),
    "timestamp": Field(Kind.moment, "When the line was written."),
    "cut": Field(
        Kind.text, "Names of the fields that were cut: a line has at most 4096 octets of JSON."
    ),
    "exception": Field(
        Kind.text, "Traceback of a bug of ours; what was raised stands at its end. Tell us."
    ),
}
"""What any line may have; the first three, each has."""

FIELDS: Final[Mapping[str, Field]] = {
    "added": Field(Kind.whole, "Devices that were not listed before."),
    "again_in_seconds": Field(Kind.number, "Until a task, or a worker, begins anew."),
    "ca_transaction_id": Field(Kind.hex, "transactionID of a request as the CA was shown it."),
    "asked_at": Field(Kind.moment, "When the request for a certificate came."),
    "begins_in_seconds": Field(
        Kind.number, "Until transactions are begun with the RA's new certificate."
    ),
    "age_seconds": Field(Kind.whole, "Since a CRL was made."),
    "base_number": Field(Kind.whole, "Number of the full CRL that a delta CRL is relative to."),
    "batch": Field(Kind.hex, "transactionID of the batch that the message came in."),
    "body_type": Field(
        Kind.text,
        "Body of the PKIMessage (`ir`, `certConf` ...); the gateway's lines are named by it.",
    ),
    "by": Field(Kind.text, "Who tells it: `gateway` or `ca`."),
    "by_seconds": Field(Kind.whole, "By how much a clock was set; negative for backwards."),
    "ca_detail": Field(
        Kind.text,
        "Why the bundled CA refused, where it is in the same process: as its own line says it.",
    ),
    "ca_rule": Field(Kind.text, "Requirement or clause by which the bundled CA refused."),
    "changed": Field(Kind.whole, "Devices of which something else is listed than before."),
    "count": Field(Kind.whole, "How often, since the last line of this name."),
    "days": Field(Kind.whole, "Days left."),
    "decided_by": Field(Kind.text, "Who decided on a request."),
    "decision": Field(Kind.text, "`approved` or `denied`."),
    "detail": Field(Kind.text, "What happened and why, in words; no base station is ever told it."),
    "devices": Field(Kind.whole, "Devices that are listed."),
    "digest": Field(Kind.hex, "Of the configuration, 16 digits."),
    "dn": Field(Kind.text, "Entry of a directory (LDAP)."),
    "domain": Field(
        Kind.text,
        "Trust domain that vouched for the signer: a vendor's, `operator`, `ra:` or `mac:` and an endpoint's name.",
    ),
    "down_seconds": Field(Kind.number, "For how long something could not be reached."),
    "duration_ms": Field(
        Kind.number, "How long it took, in milliseconds; of a message, the CA's time included."
    ),
    "endpoint": Field(Kind.text, "Name of the endpoint in the configuration."),
    "endpoints": Field(Kind.texts, "Name and paths of each endpoint."),
    "entity": Field(Kind.text, "Name of the end entity in the CA's ledger."),
    "entries": Field(Kind.whole, "Certificates that a CRL lists."),
    "exit_code": Field(
        Kind.whole, "Of a process; the negative number of the signal that ended it."
    ),
    "fact": Field(Kind.text, "Class of what could not be told."),
    "fail_info": Field(
        Kind.text, "failInfo that the device was told (failinfo.md), or would have been."
    ),
    "failing_since": Field(Kind.moment, "When the first of the failures was."),
    "failures": Field(Kind.whole, "Failures in a row."),
    "file": Field(Kind.text, "A file, or directory."),
    "fresh_seconds": Field(
        Kind.whole, "For how long what was fetched still counts; negative if it does not."
    ),
    "issuer": Field(Kind.text, "Subject of the CA that signed a CRL."),
    "issuer_id": Field(Kind.hex, "Key identifier of an issuing CA of ours."),
    "key": Field(Kind.text, "Key in Redis."),
    "key_sha256": Field(Kind.hex, "SHA-256 of a public key (SubjectPublicKeyInfo)."),
    "key_uri": Field(Kind.text, "Key in an HSM, as `pkcs11:` URI without PIN."),
    "listen": Field(Kind.text, "Host and port that are listened on."),
    "listener": Field(
        Kind.text, "Whose it was: `cmp`, `status` or `management`, as in the metrics."
    ),
    "logger": Field(Kind.text, "Module of a library that logs by itself."),
    "lost": Field(Kind.whole, "Records that there was no room for."),
    "management": Field(Kind.text, "URL of the management listener; empty without one."),
    "messages": Field(Kind.whole, "Messages in a batch."),
    "method": Field(Kind.text, "Method of an HTTP request."),
    "mode": Field(
        Kind.text,
        "`hard` or `soft`: whether a domain's devices are refused while nobody can tell who is revoked.",
    ),
    "next_update": Field(Kind.moment, "Until when a CRL is good."),
    "not_after": Field(Kind.moment, "Until when a certificate is valid."),
    "number": Field(Kind.whole, "Number of a CRL."),
    "numbers": Field(Kind.numbers, "Numbers of CRLs."),
    "operation": Field(Kind.text, "Operation label of the URL."),
    "outcome": Field(Kind.text, "What came of it; the table below has those of messages."),
    "path": Field(Kind.text, "Path of an HTTP request, without its query."),
    "peer": Field(
        Kind.text, "Address of the client, of a base station behind a trusted proxy its own."
    ),
    "pid": Field(Kind.whole, "Of a worker's process."),
    "problems": Field(Kind.texts, "Everything that is wrong, a sentence each."),
    "quirks": Field(
        Kind.texts, "Quirks of its vendor without which the message would have been refused."
    ),
    "ra": Field(Kind.text, "Name of the RA that asked the CA."),
    "reason": Field(Kind.text, "Why an HTTP request was refused, as the client is told."),
    "records": Field(Kind.whole, "Records that were written."),
    "refused": Field(
        Kind.whole,
        "Requests and connections that this listener refused, or cut off, since its start.",
    ),
    "removed": Field(Kind.whole, "Devices that are no longer listed."),
    "request": Field(
        Kind.hex, "Digest of a request that waits for approval, as `approvals list` shows it."
    ),
    "revoked": Field(Kind.whole, "Certificates that were revoked."),
    "rule": Field(
        Kind.text,
        "Requirement (requirements.md), or clause of a standard, by which the message was refused.",
    ),
    "serial_number": Field(Kind.hex, "Serial number of the certificate that the line is about."),
    "setting": Field(Kind.text, "Key, or table, of the configuration."),
    "signer": Field(
        Kind.text,
        "Subject of the certificate that protects the message, or which shared secret does; only once it is believed.",
    ),
    "signer_fingerprint": Field(Kind.hex, "SHA-256 of that certificate."),
    "size_bytes": Field(Kind.whole, "Octets of a CRL."),
    "source": Field(Kind.text, "Where CRLs or OCSP answers come from: a URL, or a file."),
    "status": Field(
        Kind.whole, "HTTP status; none where the connection was closed without an answer."
    ),
    "store": Field(Kind.text, "Which store."),
    "stream": Field(Kind.text, "Name of a stream of the audit trail."),
    "subject": Field(
        Kind.text, "Subject of the certificate that the line is about, or that is asked for."
    ),
    "task": Field(Kind.text, "Name of a background task."),
    "this_update": Field(Kind.moment, "When a CRL, or an OCSP answer, was made."),
    "todo": Field(Kind.text, "What to do about it."),
    "transaction_id": Field(
        Kind.hex, "transactionID of the message; the same in the gateway's lines and the CA's."
    ),
    "unexpected": Field(Kind.whole, "Answers in a batch that nobody had asked for."),
    "unready": Field(Kind.named, "Parts that do not work yet, and why."),
    "untold": Field(
        Kind.whole, "Refusals that had no line since the last one, as they came too fast."
    ),
    "upstream": Field(Kind.text, "Name of the CA in the configuration."),
    "url": Field(Kind.text, "Of a CA, without user and password."),
    "version": Field(Kind.text, "Of this program."),
    "waiting": Field(Kind.whole, "Records that wait."),
    "warnings": Field(Kind.texts, "What helps nobody, a sentence each."),
    "what": Field(Kind.text, "Was asked of a worker."),
    "worker": Field(Kind.whole, "Number of a worker, from 1 on."),
    "workers": Field(Kind.whole, "Processes that serve, where there are several."),
}
"""What a field means, in every line that has it."""

OUTCOMES: Final[Mapping[str, str]] = {
    "issued": "The CA has issued the certificate, and it was given to the device.",
    "confirmed": "The device has confirmed its certificate.",
    "rejected": "The device has refused its certificate.",
    "revoked": "The certificate was revoked.",
    "informed": "A question (genm) was answered.",
    "refused": "The request was refused: by us, or by the CA.",
    "failed": "Our side has failed: the CA, the store, or we.",
    "replayed": "A repeat of what was answered before; it got the same answer.",
    "waiting": "The CA takes long; the device was told to ask again.",
    "ready": "The CA has answered meanwhile; what it was is told when the device asks again.",
    "held": "An operator has to approve it; the device was told to ask again.",
    "unconfirmed": "Nobody confirmed the certificate in time; `detail` says what became of it.",
    "batched": "A batch; each message in it has a line of its own.",
}
"""How a message was answered (`ra_gateway.events.Outcome`)."""

_MESSAGE: Final = (
    *("transaction_id", "outcome", "duration_ms", "endpoint", "peer", "domain", "signer"),
    *("signer_fingerprint", "upstream", "subject", "serial_number", "fail_info", "rule", "detail"),
    *("ca_rule", "ca_detail", "quirks"),
)
_OF_CA: Final = (
    *("transaction_id", "body_type", "outcome", "peer", "operation", "batch", "ra"),
    *("signer_fingerprint", "entity", "serial_number"),
)

MESSAGE: Final = Line(
    ("info", "warning", "error"),
    _MESSAGE,
    "The gateway has answered a message; a warning is a refusal, an error a failure of our side.",
)
"""Of one message. It is named by the body of the PKIMessage: `ir`, `cr`, `p10cr`, `kur`, `certConf`, `pollReq` ..."""

_INFO: Final = ("info",)
_WARNING: Final = ("warning",)
_ERROR: Final = ("error",)

LINES: Final[Mapping[str, Line]] = {
    "unreadable": Line(
        ("warning", "error"), _MESSAGE, "What the gateway was sent is no PKIMessage; else as above."
    ),
    # The bundled CA's messages.
    "ca.answered": Line(_INFO, (*_OF_CA, "messages"), "The bundled CA has answered a message."),
    "ca.refused": Line(
        _WARNING,
        (*_OF_CA, "fail_info", "rule", "detail"),
        "The bundled CA has refused a message, or could not answer it.",
    ),
    "ca.failed": Line(_ERROR, _OF_CA, "A bug of ours kept the bundled CA from answering."),
    "answer.lost": Line(
        _ERROR,
        (
            *("upstream", "endpoint", "domain", "transaction_id", "ca_transaction_id", "subject"),
            *("key_sha256", "asked_at", "detail", "todo"),
        ),
        "A CA may have issued a certificate whose answer was lost and cannot be had again.",
    ),
    "ca.unconfirmed": Line(
        _WARNING, ("revoked",), "The bundled CA has revoked what nobody confirmed in time."
    ),
    "ca.outlives_2030": Line(
        _WARNING, ("detail", "todo"), "A certificate with a key too weak for its end was issued."
    ),
    # Below CMP.
    "http.refused": Line(
        _WARNING,
        ("by", "listener", "peer", "method", "path", "status", "reason", "refused", "untold"),
        "A request was refused, or a connection closed, below CMP; at most ten lines in ten seconds.",
    ),
    # The process.
    "started": Line(
        _INFO,
        ("version", "digest", "listen", "management", "endpoints", "workers", "unready"),
        "The first line: the process answers from now on.",
    ),
    "draining": Line(_INFO, ("listen",), "The process ends, and finishes what it has begun."),
    "config.warning": Line(_WARNING, ("detail",), "What `check-config` warns of, at each start."),
    "config.reloaded": Line(_INFO, ("by", "digest"), "A changed configuration holds from now on."),
    "config.reload_refused": Line(
        _ERROR,
        ("by", "problems", "todo"),
        "A changed configuration cannot be used; the old one holds.",
    ),
    "clock.stepped": Line(
        _ERROR,
        ("by_seconds", "detail"),
        "The clock was set; nothing is revoked or forgotten by it.",
    ),
    "clock.steady_again": Line(_WARNING, (), "The clock has run evenly for long enough."),
    "task.died": Line(
        _ERROR,
        ("task", "again_in_seconds", "detail"),
        "A background task died, and begins anew. Tell us.",
    ),
    "worker.started": Line(_INFO, ("worker", "pid"), "One of several workers serves."),
    "worker.ended": Line(
        _ERROR,
        ("worker", "pid", "exit_code", "again_in_seconds"),
        "A worker ended by itself, or could not begin, and begins anew; the others go on.",
    ),
    "worker.cannot_start": Line(
        _ERROR,
        ("worker", "detail"),
        "A worker cannot begin anew, as files that the configuration names cannot be used now.",
    ),
    "worker.hangs": Line(
        _ERROR, ("worker", "pid", "detail"), "A worker does not answer its parent, and is killed."
    ),
    "worker.failed": Line(
        _ERROR,
        ("worker", "what", "detail"),
        "A worker failed of a bug of ours; where it could not go over with the others, it is killed.",
    ),
    "event.sink_failed": Line(_ERROR, ("fact",), "A bug of ours kept something from being told."),
    "metrics.failed": Line(_ERROR, (), "A bug of ours kept metrics from being read."),
    "probe.failed": Line(
        _ERROR, (), "A bug of ours, or of a plug-in, kept a part from being asked whether it works."
    ),
    # Stores and inventory.
    "store.down": Line(
        _ERROR,
        ("by", "detail"),
        "The store, or the CA's ledger, does not answer, or takes nothing more.",
    ),
    "store.up": Line(_INFO, ("by", "down_seconds"), "It answers again."),
    "store.forgets": Line(
        _ERROR,
        ("store", "detail", "todo"),
        "Redis may lose transactions: it evicts, or keeps nothing over a restart. A repeat could then issue twice.",
    ),
    "store.keeps": Line(_INFO, ("store",), "Redis no longer does."),
    "store.emptied": Line(
        _ERROR,
        ("store", "todo"),
        "Redis was emptied, came back without what it was told, or the mark of our seals was removed.",
    ),
    "store.not_believed": Line(
        _ERROR,
        ("store", "key", "detail", "count"),
        "Something in Redis was not written by these gateways, was put back, or is gone too early.",
    ),
    "store.other_seal_key": Line(
        _ERROR,
        ("key", "detail", "todo"),
        "Gateways that share a Redis seal by keys that not all have.",
    ),
    "audit.down": Line(
        _ERROR, ("detail", "todo"), "The database of the audit trail takes no records; they wait."
    ),
    "audit.up": Line(
        _INFO, ("records", "lost"), "It takes records again, and has those that waited."
    ),
    "audit.lost": Line(
        _ERROR,
        ("detail", "waiting", "todo"),
        "As many records wait for the audit trail as may: further ones are lost, and their number stands in it.",
    ),
    "audit.stream_down": Line(
        _ERROR, ("stream", "detail", "todo"), "A stream of the audit trail takes no records."
    ),
    "audit.stream_up": Line(_INFO, ("stream", "lost"), "It takes records again."),
    "audit.stream_lost": Line(
        _ERROR,
        ("stream", "detail", "waiting", "todo"),
        "As many records wait for a stream as may, or did when the process ended; they are in the database.",
    ),
    "audit.failed": Line(
        _ERROR, ("fact",), "A bug of ours kept something from being recorded as it should be."
    ),
    "inventory.changed": Line(
        ("info", "warning"),
        ("devices", "added", "changed", "removed", "warnings"),
        "A changed inventory holds from now on.",
    ),
    "inventory.refused": Line(
        _ERROR,
        ("problems", "devices", "todo"),
        "A changed inventory cannot be used; the old one holds.",
    ),
    "approval": Line(
        _INFO,
        (
            *("decision", "decided_by", "request", "transaction_id", "domain"),
            *("signer_fingerprint", "subject"),
        ),
        "Somebody has approved, or denied, a request; written by the command.",
    ),
    # CAs.
    "upstream.down": Line(_ERROR, ("upstream", "detail"), "A CA can be sent nothing."),
    "upstream.up": Line(_INFO, ("upstream", "down_seconds"), "It can be sent messages again."),
    "upstream.url_left_out": Line(
        _WARNING, ("url", "failures", "detail"), "One URL of a CA fails; the others are used."
    ),
    "upstream.url_back": Line(_INFO, ("url",), "It is used again."),
    "upstream.probe_failed": Line(
        _WARNING, ("url", "detail"), "A URL of a CA does not answer when it is looked at."
    ),
    "upstream.probe_answered": Line(_INFO, ("url",), "It does again."),
    "upstream.batch": Line(
        ("warning", "error"),
        ("upstream", "unexpected"),
        "A CA's answer to a batch holds what nobody asked for; an error is a bug of ours.",
    ),
    "upstream.refused": Line(
        _WARNING,
        ("upstream", "transaction_id", "detail"),
        "A CA that only signs certificates refused, or what it was to sign cannot be made.",
    ),
    "upstream.failed": Line(
        _ERROR, ("upstream",), "A CA's plug-in has failed; with its traceback."
    ),
    "upstream.secret_changed": Line(
        _INFO, ("setting",), "A new shared secret with a CA is used from now on."
    ),
    "upstream.secret_unusable": Line(
        _WARNING, ("problems",), "A new shared secret with a CA cannot be used; the old one is."
    ),
    # The RA's own certificate, and those of listeners.
    "ra.credential_changed": Line(
        _INFO,
        ("subject", "serial_number", "not_after"),
        "The RA signs with another certificate from now on.",
    ),
    "ra.credential_known": Line(
        _INFO,
        ("subject", "serial_number", "begins_in_seconds"),
        "The RA has another certificate, which ends what other gateways begin with it; this one begins with it later.",
    ),
    "ra.credential_unusable": Line(
        _WARNING, ("problems",), "The RA's new certificate or key cannot be used; the old ones are."
    ),
    "ra.credential_expires": Line(
        _WARNING, ("subject", "not_after", "days"), "The RA's certificate ends soon."
    ),
    "ra.credential_expired": Line(
        _ERROR, ("subject", "not_after", "detail", "todo"), "The RA's certificate has ended."
    ),
    "tls.certificate_changed": Line(
        _INFO,
        ("setting", "subject", "not_after"),
        "A listener shows another certificate from now on.",
    ),
    "tls.unusable": Line(
        _ERROR,
        ("setting", "problems", "todo"),
        "A listener's new certificate cannot be used; the old one is.",
    ),
    "tls.certificate_expires": Line(
        _WARNING,
        ("setting", "subject", "not_after", "days", "todo"),
        "A listener's certificate ends soon.",
    ),
    "tls.certificate_expired": Line(
        _ERROR, ("setting", "subject", "not_after", "todo"), "A listener's certificate has ended."
    ),
    "hsm.key_unprotected": Line(
        _WARNING, ("key_uri", "detail"), "A key in an HSM may be taken out of it."
    ),
    # Who is revoked.
    "revocation.refreshed": Line(
        ("info", "warning"),
        (
            *("domain", "source", "issuer", "number", "entries", "size_bytes", "this_update"),
            *("next_update", "age_seconds", "fresh_seconds", "duration_ms"),
        ),
        "A CRL was taken up; with a warning where it is out of date.",
    ),
    "revocation.unchanged": Line(("debug",), ("domain", "source"), "A CRL is the one of before."),
    "revocation.failed": Line(
        _WARNING,
        ("domain", "source", "detail", "failing_since", "mode"),
        "A CRL could not be had, or not be used.",
    ),
    "revocation.revoked": Line(
        _WARNING,
        ("domain", "subject", "serial_number"),
        "An OCSP responder says that a certificate is revoked.",
    ),
    "revocation.responder_answers": Line(
        _INFO,
        ("domain", "source", "this_update", "fresh_seconds"),
        "An OCSP responder answers, or does again.",
    ),
    "revocation.responder_failed": Line(
        _WARNING,
        ("domain", "source", "detail", "failing_since"),
        "An OCSP responder gave no answer that can be used.",
    ),
    "revocation.learned": Line(
        _INFO, ("domain", "source"), "A certificate named a CRL that is fetched from now on."
    ),
    "revocation.too_many_urls": Line(
        _WARNING,
        ("domain", "source"),
        "A certificate named a CRL, and so many are fetched already.",
    ),
    "revocation.not_restored": Line(
        _INFO,
        ("domain", "source", "detail"),
        "A CRL that was kept on the disk cannot be used any more.",
    ),
    "revocation.not_saved": Line(
        _WARNING, ("domain", "source", "detail"), "A CRL cannot be kept on the disk."
    ),
    "revocation.bug": Line(
        _ERROR,
        ("domain", "source"),
        "A bug of ours, where CRLs and OCSP answers are read. Tell us.",
    ),
    # The bundled CA besides its messages.
    "crl": Line(
        ("info", "warning", "error"),
        (
            *("issuer_id", "number", "base_number", "next_update", "size_bytes", "outcome"),
            *("rule", "detail"),
        ),
        "A CRL was `made`, is `delayed`, or has `failed`.",
    ),
    "crl.directory": Line(
        ("info", "warning", "error"),
        ("outcome", "dn", "numbers", "detail", "todo"),
        "CRLs were `written` to the directory, are `delayed`, or have `failed`.",
    ),
    "ocsp": Line(
        ("warning", "error"), ("outcome", "detail"), "An OCSP request could not be answered."
    ),
    "ca.status": Line(_INFO, ("listen",), "CRLs and OCSP answers are served there."),
    "ca.cannot_start": Line(_ERROR, ("detail",), "The bundled CA cannot begin."),
    "ca.sweep_failed": Line(
        ("warning", "error"), ("detail",), "Old transactions of the ledger could not be seen to."
    ),
    "ca.profile_unusable": Line(
        _WARNING, ("detail",), "A certificate profile grants nothing; the text says why."
    ),
    "ca.profiles_unchecked": Line(
        _WARNING, ("detail",), "Whether every profile grants something could not be looked up."
    ),
    "ca.directory_unusable": Line(
        ("warning", "error"),
        ("detail",),
        "The CA's directory cannot be read; what was read before holds.",
    ),
    "ca.certificate_expires": Line(
        _WARNING, ("file", "subject", "not_after"), "One of the CA's own certificates ends soon."
    ),
    "ca.certificate_expired": Line(
        _ERROR, ("file", "subject", "not_after"), "One of the CA's own certificates has ended."
    ),
    "ca.certificate_revoked": Line(
        _WARNING,
        ("file", "subject", "not_after"),
        "The root has revoked one of the CA's own certificates.",
    ),
    "ca.issuing_revoked": Line(
        _ERROR,
        ("subject", "serial_number", "todo"),
        "The root has revoked the issuing CA; nothing is issued.",
    ),
    "ca.root_crl_unusable": Line(
        _ERROR, ("file", "detail"), "The root's CRL cannot be read; the one of before is served."
    ),
    "ca.root_crl_behind": Line(
        _ERROR,
        ("file", "number", "todo"),
        "The root's CRL in the CA's directory is older than the one served.",
    ),
    "ca.audit_rewritten": Line(
        _ERROR,
        ("detail", "todo"),
        "The ledger's audit trail is not the one of the last checkpoint.",
    ),
    "ca.checkpoint_failed": Line(
        _ERROR, ("file", "detail", "todo"), "A checkpoint of the audit trail could not be kept."
    ),
}
"""Every other line. One with the field `logger` is a library's, and named by what that says."""
