"""`ra-gateway ca`: the bundled CA's keys and certificates, its ledger, and what it has issued."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import typer

from ra_gateway import logs
from ra_gateway.app import now
from ra_gateway.app.ca import (
    CAService,
    ca_checkpoints,
    ca_keys,
    ca_ledger,
    crl_publisher,
)
from ra_gateway.app.doctor.ledger import ledger_warnings
from ra_gateway.app.idle import of_idle_at_the_ca
from ra_gateway.app.profiles import ca_profiles
from ra_gateway.app.running import check
from ra_gateway.app.warnings import ca_warnings, of_ca_expiry, of_file
from ra_gateway.ca.files import CAFiles
from ra_gateway.ca.hierarchy import SignerNames
from ra_gateway.ca.keys import create_operator_pki, expiries, import_ca
from ra_gateway.ca.ledger.backup import dump, restore
from ra_gateway.ca.ledger.checkpoints import TrailRewritten
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.ledger.verify import verify
from ra_gateway.ca.profiles import PROFILES, PURPOSES, Profile
from ra_gateway.ca.ra_credential import issue_ra_certificate
from ra_gateway.ca.records import CertificateStatus, Reason, Revocation
from ra_gateway.ca.rollover import renew_signers, roll_issuing, roll_root
from ra_gateway.cli.by_hand import ca_cross_sign, ca_root_crl, ca_sign
from ra_gateway.cli.entities import entity_app, show_certificates
from ra_gateway.cli.ledger_context import actor, with_ledger
from ra_gateway.cli.output import (
    CONFIG,
    Commands,
    ConfigOption,
    CRLURLOption,
    DirectoryPasswordOption,
    KeyKindOption,
    KeyUriOption,
    NamedSubjectsOption,
    OtherKeyKindOption,
    RootKeyOption,
    RootPasswordOption,
    SANOption,
    day,
    fail,
    named_subjects,
    progress,
    read_password,
    require_name,
    run,
    say,
    serial_number,
    serve_until_signalled,
    show_facts,
    show_table,
)
from ra_gateway.cli.registry import ra_app, role_app
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import general_names
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.config.reading import load_ca
from ra_gateway.config.tables import CAServiceConfig
from ra_gateway.errors import ConfigError
from ra_gateway.keys import load_certificates, pem

ca_app = Commands(
    name="ca",
    help="The bundled CA: its keys, its ledger, who is registered and what was issued.",
    no_args_is_help=True,
)
for part in (entity_app, role_app, ra_app):
    ca_app.add_typer(part)

DirectoryArgument = Annotated[Path, typer.Argument(help="Directory of the CA's files.")]
SerialArgument = Annotated[str, typer.Argument(help="Serial number in hexadecimal.")]

_PURPOSES: Final = {oid: name for name, oid in PURPOSES.items()}
_RELOAD: Final = "Restart `ra-gateway ca serve`, or the gateway with the CA in its process."


# --- keys and certificates of the CA ----------------------------------------------------------------------------


@ca_app.command("create")
def ca_create(
    directory: DirectoryArgument,
    organisation: Annotated[str, typer.Option(help="O of every subject.")] = "Example Operator",
    key_kind: KeyKindOption = "p256",
    password_file: DirectoryPasswordOption = None,
    key_uri: KeyUriOption = None,
    subject: NamedSubjectsOption = None,
    san: SANOption = None,
    crl_url: CRLURLOption = "",
) -> None:
    """Make root, issuing CA, CMP and OCSP signer. Existing files are never overwritten.

    --san and --crl-url are for the CMP signer, whose certificate is to have both (TS 33.310 9.4.6).
    """
    run(
        create_operator_pki(
            directory,
            now=now(),
            name=organisation,
            key_kind=key_kind,
            password=read_password(password_file),
            key_uris=_uris(key_uri),
            subjects=named_subjects(subject, ("root", "issuing", "cmp", "ocsp")),
            cmp_names=SignerNames.made(san or (), crl_url),
        )
    )
    say(f"Wrote root, issuing CA, CMP signer and OCSP signer to {directory}.")
    _say_what_lacks("cmp.pem", san, crl_url)
    say(
        f"Next: name it in ca.directory_path of a configuration, and move {directory}/root.key away."
    )


def _say_what_lacks(file: str, san: list[str] | None, crl_url: str) -> None:
    lacking = [
        what
        for what, given in (
            ("SubjectAltName (--san)", san),
            ("URL of the CRL (--crl-url)", crl_url),
        )
        if not given
    ]
    if lacking:
        say(f"{file} has no {' and no '.join(lacking)}, which TS 33.310 9.4.6 wants there.")


def _uris(texts: Iterable[str] | None) -> dict[str, str]:
    uris = {}
    for text in texts or ():
        name, separator, uri = text.partition("=")
        if not separator or not name or not uri.startswith("pkcs11:"):
            # The URI may hold a PIN.
            raise typer.BadParameter(f"--key-uri {name[:40]!r} is not of the form NAME=pkcs11:...")
        uris[name] = uri
    return uris


@ca_app.command("import")
def ca_import(
    directory: DirectoryArgument,
    certificate: Annotated[Path, typer.Option(help="Certificate of the CA, PEM.")],
    key: Annotated[Path, typer.Option(help="Its key: PKCS#8, PEM, or the name of one in an HSM.")],
    chain: Annotated[
        list[Path] | None, typer.Option(help="Certificates above it up to the root; repeatable.")
    ] = None,
    key_password: Annotated[Path | None, typer.Option(help="File with --key's password.")] = None,
    password_file: DirectoryPasswordOption = None,
    key_kind: OtherKeyKindOption = None,
    key_uri: KeyUriOption = None,
) -> None:
    """Make the directory of a CA that exists, with new CMP and OCSP signers."""
    run(
        import_ca(
            directory,
            now=now(),
            certificate_path=certificate,
            key_path=key,
            chain_paths=tuple(chain or ()),
            key_password=read_password(key_password),
            password=read_password(password_file),
            key_kind=key_kind,
            key_uris=_uris(key_uri),
        )
    )
    say(f"Wrote the imported CA, a CMP signer and an OCSP signer to {directory}.")
    say("The ledger begins empty: what the CA issued before is revoked where it was issued.")


@ca_app.command("issue-ra")
def ca_issue_ra(
    ca_directory: DirectoryArgument,
    ra_directory: Annotated[Path, typer.Argument(help="Where ra.pem and ra.key go.")],
    subject: Annotated[str, typer.Option(help="Subject, RFC 4514.")] = "CN=ra,O=Example Operator",
    key_kind: KeyKindOption = "p256",
    password_file: DirectoryPasswordOption = None,
    key_uri: Annotated[str | None, typer.Option(help="pkcs11:... makes the key in an HSM.")] = None,
    san: SANOption = None,
    crl_url: CRLURLOption = "",
) -> None:
    """Make key and certificate of an RA as files, without a ledger."""
    require_name(subject, "--subject")
    run(
        issue_ra_certificate(
            ca_directory,
            subject,
            now=now(),
            target=ra_directory,
            key_kind=key_kind,
            ca_password=read_password(password_file),
            key_uri=key_uri,
            names=SignerNames.made(san or (), crl_url),
        )
    )
    _say_what_lacks("ra.pem", san, crl_url)
    say(f"Wrote {ra_directory}/ra.pem and ra.key: name them under [ra] of the gateway.")
    say(f"At the CA: ra-gateway ca ra add NAME --role ROLE --certificate {ra_directory}/ra.pem")


@ca_app.command("roll-issuing")
def ca_roll_issuing(
    directory: DirectoryArgument,
    root_key: RootKeyOption = None,
    root_password: RootPasswordOption = None,
    subject: Annotated[
        str | None, typer.Option(help="RFC 4514; else the old one's with G2, G3...")
    ] = None,
    key_kind: OtherKeyKindOption = None,
    password_file: DirectoryPasswordOption = None,
    key_uri: KeyUriOption = None,
) -> None:
    """Make a new issuing CA; the old one goes on signing CRLs and OCSP answers of what it issued."""
    if subject is not None:
        require_name(subject, "--subject")
    certificate = run(
        roll_issuing(
            directory,
            now=now(),
            password=read_password(password_file),
            root_key_path=root_key,
            root_password=read_password(root_password),
            subject=subject,
            key_kind=key_kind,
            key_uris=_uris(key_uri),
        )
    )
    say(f"{certificate.subject} issues until {day(certificate.not_after)} UTC. {_RELOAD}")


@ca_app.command("roll-root")
def ca_roll_root(
    directory: DirectoryArgument,
    root_key: RootKeyOption = None,
    root_password: RootPasswordOption = None,
    key_kind: OtherKeyKindOption = None,
    password_file: DirectoryPasswordOption = None,
    key_uri: KeyUriOption = None,
) -> None:
    """Make a new root and cross certificates with the old one (rootCaKeyUpdate)."""
    certificate = roll_root(
        directory,
        now=now(),
        password=read_password(password_file),
        root_key_path=root_key,
        root_password=read_password(root_password),
        key_kind=key_kind,
        key_uris=_uris(key_uri),
    )
    say(f"{certificate.subject} is the root until {day(certificate.not_after)} UTC. {_RELOAD}")
    say("Devices get it with rootCaKeyUpdate; list it, and the old one, at the gateways.")


@ca_app.command("renew-signers")
def ca_renew_signers(
    directory: DirectoryArgument,
    within_days: Annotated[
        int | None, typer.Option(min=0, help="Only those that expire so soon; else all.")
    ] = None,
    key_kind: OtherKeyKindOption = None,
    password_file: DirectoryPasswordOption = None,
    key_uri: KeyUriOption = None,
    key_generation: Annotated[
        bool,
        typer.Option(
            "--key-generation",
            help="Make a key generation authority too, for ca.key_generation; one that is there is always renewed.",
        ),
    ] = False,
    san: SANOption = None,
    crl_url: CRLURLOption = "",
) -> None:
    """Make new CMP and OCSP signers, with the names that they have.

    --san and --crl-url give the CMP signer others, or what it lacks (TS 33.310 9.4.6).
    """
    made = run(
        renew_signers(
            directory,
            now=now(),
            password=read_password(password_file),
            within_days=within_days,
            key_kind=key_kind,
            key_uris=_uris(key_uri),
            key_generation=key_generation,
            cmp_names=SignerNames.made(san or (), crl_url),
        )
    )
    say(f"Made {', '.join(made)}. {_RELOAD}" if made else "None is due.")


@ca_app.command("expiries")
def ca_expiries(directory: DirectoryArgument) -> None:
    """List when the CA's own certificates expire, the soonest first, and which the root has revoked."""
    show_table(
        ("Not after", "File", "Subject"),
        [
            ("revoked" if item.revoked else day(item.not_after), item.file, item.subject)
            for item in expiries(directory)
        ],
    )


# --- the service ------------------------------------------------------------------------------------------------


@ca_app.command("serve")
def ca_serve(config: ConfigOption = CONFIG) -> None:
    """Serve the bundled CA as a process of its own, for gateways that use it over HTTP."""
    settings = load_ca(config)
    logs.configure(settings.log.format, settings.log.level)
    serve_until_signalled(
        CAService(settings, read=lambda: load_ca(config)), _warnings(config, settings)
    )


def _warnings(path: Path, settings: CAServiceConfig) -> list[str]:
    """Return what works and is less safe than it looks, in sentences."""
    found = [str(problem) for problem in (*of_file(path), *ca_warnings(settings, now()))]
    return [*found, *ledger_warnings(settings.ca)]


def check_ca_config(path: Path) -> None:
    """Read the configuration of `ca serve` and every file it names, and say everything that is wrong.

    Raises:
        ConfigError: It cannot be used.
    """
    settings = load_ca(path)
    check(CAService, settings)
    client = settings.ca.client
    if client is None:
        say(f"{path}: good. A CA in RA mode.")
    else:
        say(f"{path}: good. A CA in RA mode and in client mode, {len(client.vendors)} vendor(s).")
    for warning in (
        *_warnings(path, settings),
        *of_idle_at_the_ca(settings),
        *of_ca_expiry(settings.ca, now()),
    ):
        say(f"warning: {warning}")


@ca_app.command("profiles")
def ca_list_profiles(config: ConfigOption = CONFIG) -> None:
    """List the certificate profiles: the built-in ones and those of [ca.profiles]."""
    settings = load_ca(config).ca
    show_table(
        ("Name", "From", "Days", "Subject", "SubjectAltName", "Within", "For"),
        [
            (
                f"{name} (default)" if name == settings.profile else name,
                "built in" if name in PROFILES else settings.profiles[name].base,
                str(profile.validity_days),
                ", ".join(sorted(profile.required_subject)),
                _san(profile),
                ", ".join((*profile.domains, *(f"O={name}" for name in profile.organisations))),
                ", ".join(_PURPOSES.get(oid, oid) for oid in profile.purposes),
            )
            for name, profile in ca_profiles(settings).items()
        ],
    )


def _san(profile: Profile) -> str:
    kinds = ", ".join(sorted(profile.san))
    return f"{kinds} (required)" if kinds and profile.san_required else kinds


# --- the ledger -------------------------------------------------------------------------------------------------


@ca_app.command("migrate")
def ca_migrate(config: ConfigOption = CONFIG) -> None:
    """Make the tables of the ledger, or bring those of an older release up to date."""
    settings = load_ca(config).ca
    run(ca_ledger(settings).migrate())
    say("The ledger has the tables of this release.")


@ca_app.command("backup")
def ca_backup(
    file: Annotated[Path, typer.Argument(help="Where the dump goes; must not exist.")],
    config: ConfigOption = CONFIG,
) -> None:
    """Write the whole ledger, as it is at one moment, to a file; without private keys."""

    async def write(ledger: Ledger, settings: CAConfig) -> str:
        with progress("Writing") as step:
            count = (await dump(ledger, file, now(), step)).row_count
        say(f"Wrote {count} rows to {file}.")
        return await _checkpoint(ledger, settings)

    if rewritten := with_ledger(config, write):
        fail([f"{rewritten}. Run `ra-gateway ca verify`, and keep the backups of before."], 1)


@ca_app.command("restore")
def ca_restore(
    file: Annotated[Path, typer.Argument(help="Dump from `ra-gateway ca backup`.")],
    config: ConfigOption = CONFIG,
) -> None:
    """Fill an empty ledger, SQLite or PostgreSQL, from a dump: with all of it, or nothing."""

    async def read(ledger: Ledger, settings: CAConfig) -> None:
        with progress("Reading") as step:
            dumped = await restore(file, ledger, step)
        say(f"Restored {dumped.row_count} rows, as of {dumped.at}.")
        checkpoints = ca_checkpoints(settings)
        try:
            await checkpoints.compare(ledger)
        except TrailRewritten:
            say(
                "Checkpoints tell of lines of the audit trail that the dump has not. "
                f"Move {checkpoints.path} away, and keep it: "
                "otherwise `ra-gateway ca verify` finds that the trail was cut off."
            )
        except (ConfigError, OSError):
            pass  # `ca verify` says what is wrong with the file

    with_ledger(config, read)
    say("Next: ra-gateway ca verify")


@ca_app.command("verify")
def ca_verify(
    sample: Annotated[
        int | None, typer.Option(min=1, help="How many signatures to verify; else all.")
    ] = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Check the ledger against its certificates and CRLs and the audit trail."""

    async def check(ledger: Ledger, settings: CAConfig) -> list[str]:
        issuers = _issuing_certificates(settings.directory_path)
        checkpoints = ca_checkpoints(settings)
        known = checkpoints.read()
        with progress("Verifying") as step:
            found = await verify(
                ledger, issuers, now(), checkpoints=known, sample=sample, progress=step
            )
        if found.findings:
            return [str(finding) for finding in found.findings]
        rewritten = await _checkpoint(ledger, settings)
        if rewritten:
            return [rewritten]
        say("The ledger, its certificates and CRLs and the audit trail agree.")
        if known:
            say(
                f"The trail has all {len(known)} checkpoint(s), the last of {day(known[-1].at)} UTC."
            )
        else:
            say(
                f"There was no checkpoint yet: that nothing was cut off before is not known ({checkpoints.path})."
            )
        if found.older_lines:
            say(
                f"{found.older_lines} line(s) of the trail are of an older release and do not say all; "
                "what they leave open was not compared."
            )
        return []

    findings = with_ledger(config, check)
    if findings:
        fail([*findings, f"{len(findings)} finding(s)."], 1)


async def _checkpoint(ledger: Ledger, settings: CAConfig) -> str:
    """Write down where the audit trail ends; return what is wrong if it does not go on from the last time."""
    checkpoints = ca_checkpoints(settings)
    try:
        await checkpoints.append(ledger, now())
    except TrailRewritten as error:
        return str(error)
    except OSError as error:
        say(f"No checkpoint was written to {checkpoints.path}: {error.strerror or error}.")
    return ""


def _issuing_certificates(directory: Path) -> dict[str, Certificate]:
    """Return all issuing CAs, also those that have expired, by key identifier."""
    files = CAFiles(directory)
    names = ["issuing.pem", *(f"{name}/issuing.pem" for name in files.numbered("retired"))]
    found = [load_certificates(files.find(name), "ca.directory_path")[0] for name in names]
    return {(item.subject_key_identifier or b"").hex(): item for item in reversed(found)}


@ca_app.command("crl")
def ca_crl(
    delta: Annotated[bool, typer.Option("--delta", help="Delta CRLs.")] = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Make a CRL of every issuing CA now, due or not."""

    async def publish(ledger: Ledger, settings: CAConfig) -> None:
        keys = ca_keys(settings)
        publisher = crl_publisher(settings, keys, ledger)
        await ledger.sweep(now())
        for issuer in keys.issuers:
            crl = await publisher.publish(issuer, delta=delta)
            say(
                f"{issuer.certificate.subject}: CRL {crl.number}, until {day(crl.next_update)} UTC."
            )

    with_ledger(config, publish)


ca_app.command("cross-sign")(ca_cross_sign)
ca_app.command("root-crl")(ca_root_crl)


# --- certificates -----------------------------------------------------------------------------------------------


ca_app.command("sign")(ca_sign)


@ca_app.command("list")
def ca_list(
    entity: Annotated[str, typer.Option(help="Only those of this end entity.")] = "",
    status: Annotated[
        CertificateStatus | None, typer.Option(help="Only those that have it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    config: ConfigOption = CONFIG,
) -> None:
    """List certificates, the newest first."""
    with_ledger(
        config,
        lambda ledger, _: show_certificates(ledger, entity=entity, status=status, limit=limit),
    )


@ca_app.command("show")
def ca_show(
    serial: SerialArgument,
    as_pem: Annotated[bool, typer.Option("--pem", help="Print the certificate itself.")] = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Show a certificate and what became of it."""
    number = serial_number(serial)

    found = with_ledger(config, lambda ledger, _: ledger.certificate(number, now()))
    if found is None:
        raise ConfigError.of(
            f"certificate {number:x}",
            "was not issued here",
            "`ra-gateway ca list` shows the newest",
        )
    if as_pem:
        for line in pem(found.der).splitlines():
            say(line)
        return
    certificate = Certificate.from_der(found.der)
    names = certificate.subject_alt_name_der
    show_facts(
        (
            ("Serial", f"{number:x}"),
            ("Status", found.status),
            ("Revoked", day(found.revoked_at)),
            ("Reason", "" if found.reason is None else found.reason.name),
            ("Subject", certificate.subject),
            ("Names", "" if names is None else ", ".join(general_names(names))),
            ("End entity", found.entity),
            ("Profile", found.profile),
            ("Issuer", certificate.issuer),
            ("Valid", f"{day(certificate.not_before)} to {day(certificate.not_after)} UTC"),
            ("Fingerprint", certificate.fingerprint.hex()),
        )
    )


def _known_reason(name: str) -> str:
    if name not in Reason.__members__:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(Reason.__members__)}")
    return name


@ca_app.command("revoke")
def ca_revoke(
    serial: SerialArgument,
    reason: Annotated[
        str,
        typer.Option(help=f"{', '.join(item.name for item in Reason)}.", callback=_known_reason),
    ],
    config: ConfigOption = CONFIG,
) -> None:
    """Revoke a certificate, or release it from hold."""
    number, why = serial_number(serial), Reason[reason]

    with_ledger(config, lambda ledger, _: ledger.revoke(Revocation(number, why, actor()), now()))
    if why is Reason.removeFromCRL:
        say(f"Released {number:x} from hold.")
    else:
        say(f"Revoked {number:x} ({why.name}).")
    say(
        "OCSP answers say so now; CRLs as soon as `ra-gateway ca serve` looks, or `ra-gateway ca crl` is run."
    )
