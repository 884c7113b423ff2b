"""`ra-gateway ca`: the bundled CA's keys and certificates, its ledger, and what it has issued."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ra_gateway.cli.by_hand import ca_cross_sign, ca_root_crl, ca_sign
from ra_gateway.cli.certificates import ca_history, ca_list, ca_revoke, ca_show
from ra_gateway.cli.entities import entity_app
from ra_gateway.cli.ledger_context import actor, with_ledger
from ra_gateway.cli.output import (
    CONFIG,
    Checked,
    Commands,
    ConfigOption,
    CRLURLOption,
    DirectoryPasswordOption,
    JSONOption,
    KeyKindOption,
    KeyUriOption,
    NamedSubjectsOption,
    OtherKeyKindOption,
    PortOption,
    RootKeyOption,
    RootPasswordOption,
    SANOption,
    day,
    fail,
    named_subjects,
    note,
    plain,
    print_json,
    progress,
    read_password,
    require_name,
    run,
    say,
    serve_until_signalled,
    show_list,
)
from ra_gateway.cli.registry import ra_app, role_app
from ra_gateway.cli.reload import reload_ca
from ra_gateway.config.source import Source
from ra_gateway.errors import ConfigError

if TYPE_CHECKING:
    from ra_gateway.ca.ledger.checkpoints import Checkpoint, Checkpoints
    from ra_gateway.ca.ledger.ledger import Ledger
    from ra_gateway.config.ca_tables import CAConfig
    from ra_gateway.config.tables import CAServiceConfig

ca_app = Commands(
    name="ca",
    help="The bundled CA: its keys, its ledger, who is registered and what was issued.",
    no_args_is_help=True,
)
for part in (entity_app, role_app, ra_app):
    ca_app.add_typer(part)

DirectoryArgument = Annotated[Path, typer.Argument(help="Directory of the CA's files.")]

_RELOAD: Final = "Reload `ra-gateway ca serve`, or the gateway with the CA in its process."


# --- keys and certificates of the CA ----------------------------------------------------------------------------


@ca_app.command(
    "create", examples=('ra-gateway ca create ca --organisation "Example Telecom" --key-kind p384',)
)
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
    from ra_gateway.ca.hierarchy import SignerNames
    from ra_gateway.ca.keys import create_operator_pki
    from ra_gateway.clocks import now

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


@ca_app.command(
    "import",
    examples=(
        "ra-gateway ca import ca --certificate issuing.pem --key issuing.key --chain root.pem",
    ),
)
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
    from ra_gateway.ca.keys import import_ca
    from ra_gateway.clocks import now

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


@ca_app.command(
    "issue-ra", examples=('ra-gateway ca issue-ra ca ra --subject "CN=ra1,O=Example Telecom"',)
)
def ca_issue_ra(
    ca_directory: DirectoryArgument,
    ra_directory: Annotated[Path, typer.Argument(help="Where ra.pem and ra.key go.")],
    subject: Annotated[str, typer.Option(help="Subject, RFC 4514.")] = "CN=ra,O=Example Operator",
    key_kind: KeyKindOption = "p256",
    password_file: DirectoryPasswordOption = None,
    key_uri: Annotated[
        str | None, typer.Option(metavar="pkcs11:...", help="Makes the key in an HSM.")
    ] = None,
    san: SANOption = None,
    crl_url: CRLURLOption = "",
) -> None:
    """Make key and certificate of an RA as files, without a ledger."""
    from ra_gateway.ca.hierarchy import SignerNames
    from ra_gateway.ca.ra_credential import issue_ra_certificate
    from ra_gateway.clocks import now

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


@ca_app.command(
    "roll-issuing", examples=("ra-gateway ca roll-issuing ca --root-key /media/offline/root.key",)
)
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
    from ra_gateway.ca.rollover import roll_issuing
    from ra_gateway.clocks import now

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
    say(f"{certificate.subject} issues until {day(certificate.not_after)} UTC.")
    say(
        f"First list {directory}/issuing.pem in operator.intermediates_paths of every gateway, beside the CAs "
        "before it, and reload them."
    )
    say(f"Then: {_RELOAD}")


@ca_app.command(
    "roll-root", examples=("ra-gateway ca roll-root ca --root-key /media/offline/root.key",)
)
def ca_roll_root(
    directory: DirectoryArgument,
    root_key: RootKeyOption = None,
    root_password: RootPasswordOption = None,
    key_kind: OtherKeyKindOption = None,
    password_file: DirectoryPasswordOption = None,
    key_uri: KeyUriOption = None,
) -> None:
    """Make a new root and cross certificates with the old one (rootCaKeyUpdate)."""
    from ra_gateway.ca.rollover import roll_root
    from ra_gateway.clocks import now

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
    say(
        f"Before that, list {directory}/root.pem beside the old one in operator.anchors_paths of every gateway. "
        "Devices get it with rootCaKeyUpdate."
    )


@ca_app.command("renew-signers", examples=("ra-gateway ca renew-signers ca --within-days 60",))
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
    from ra_gateway.ca.hierarchy import SignerNames
    from ra_gateway.ca.rollover import renew_signers
    from ra_gateway.clocks import now

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


@ca_app.command("expiries", examples=("ra-gateway ca expiries ca",))
def ca_expiries(directory: DirectoryArgument, as_json: JSONOption = False) -> None:
    """List when the CA's own certificates expire, the soonest first, and which the root has revoked."""
    from ra_gateway.ca.keys import expiries

    rows = [
        {
            "not_after": "revoked" if item.revoked and not as_json else item.not_after,
            "file": item.file,
            "subject": item.subject,
            "revoked": item.revoked,
        }
        for item in expiries(directory)
    ]
    columns = {"not_after": "Not after", "file": "File", "subject": "Subject"}
    show_list(columns, rows, as_json=as_json)


# --- the service ------------------------------------------------------------------------------------------------


@ca_app.command("serve", examples=("ra-gateway ca serve --config ca.toml",))
def ca_serve(port: PortOption = None, config: ConfigOption = CONFIG) -> None:
    """Serve the bundled CA as a process of its own, for gateways that use it over HTTP."""
    from ra_gateway.app.ca_service import CAService
    from ra_gateway.config.reading import load_ca

    serve_until_signalled(CAService, load_ca, config, port, "ca.server.listen_port", _warnings)


def _warnings(source: Source, settings: CAServiceConfig) -> list[str]:
    """Return what works and is less safe than it looks, in sentences."""
    from ra_gateway.app.doctor.ledger import ledger_warnings
    from ra_gateway.app.warnings import ca_warnings, of_file
    from ra_gateway.clocks import now

    found = [str(problem) for problem in (*of_file(source.path), *ca_warnings(settings, now()))]
    return [*found, *ledger_warnings(settings.ca)]


def checked_ca(source: Source) -> Checked:
    """Read the configuration of `ca serve` and every file it names, and return what there is to say.

    Raises:
        ConfigError: It cannot be used.
    """
    from ra_gateway.app.ca_service import CAService
    from ra_gateway.app.running import check
    from ra_gateway.app.unused import unused_at_the_ca
    from ra_gateway.app.warnings import of_ca_expiry
    from ra_gateway.clocks import now
    from ra_gateway.config.reading import load_ca

    settings = load_ca(source)
    check(CAService, settings)
    client = settings.ca.client
    vendors = "" if client is None else f" and in client mode, {len(client.vendors)} vendor(s)"
    rest = (*unused_at_the_ca(settings), *of_ca_expiry(settings.ca, now()))
    return Checked(
        f"good. A CA in RA mode{vendors}.", [*_warnings(source, settings), *map(str, rest)]
    )


ca_app.command("reload", examples=("ra-gateway ca reload --config ca.toml",))(reload_ca)


@ca_app.command("profiles", examples=("ra-gateway ca profiles",))
def ca_list_profiles(as_json: JSONOption = False, config: ConfigOption = CONFIG) -> None:
    """List the certificate profiles: the built-in ones and those of [ca.profiles]."""
    from ra_gateway.app.profiles import ca_profiles
    from ra_gateway.ca.profiles import PROFILES, PURPOSES
    from ra_gateway.config.reading import load_ca

    settings = load_ca(config).ca
    purposes = {oid: name for name, oid in PURPOSES.items()}
    rows = [
        {
            "name": name,
            "default": name == settings.profile,
            "base": None if name in PROFILES else settings.profiles[name].base,
            "validity_days": profile.validity_days,
            "required_subject": sorted(profile.required_subject),
            "san": sorted(profile.san),
            "san_required": profile.san_required,
            "domains": profile.domains,
            "organisations": profile.organisations,
            "purposes": [purposes.get(oid, oid) for oid in profile.purposes],
        }
        for name, profile in ca_profiles(settings).items()
    ]
    if not as_json:
        rows = list(map(_profile_row, rows))
    columns = {
        "name": "Name",
        "base": "From",
        "validity_days": "Days",
        "required_subject": "Subject",
        "san": "SubjectAltName",
        "within": "Within",
        "purposes": "For",
    }
    show_list(columns, rows, as_json=as_json)


def _profile_row(values: dict[str, Any]) -> dict[str, Any]:
    kinds = ", ".join(values["san"])
    return values | {
        "name": f"{values['name']} (default)" if values["default"] else values["name"],
        "base": values["base"] or "built in",
        "san": f"{kinds} (required)" if kinds and values["san_required"] else kinds,
        "within": [*values["domains"], *(f"O={name}" for name in values["organisations"])],
    }


# --- the ledger -------------------------------------------------------------------------------------------------


@ca_app.command("migrate", examples=("ra-gateway ca migrate --config ca.toml",))
def ca_migrate(config: ConfigOption = CONFIG) -> None:
    """Make the tables of the ledger, or bring those of an older release up to date."""
    from ra_gateway.app.ledger import ca_ledger
    from ra_gateway.config.reading import load_ca

    settings = load_ca(config).ca
    run(ca_ledger(settings).migrate())
    say("The ledger has the tables of this release.")


@ca_app.command("backup", examples=("ra-gateway ca backup ledger.dump",))
def ca_backup(
    file: Annotated[Path, typer.Argument(help="Where the dump goes; must not exist.")],
    config: ConfigOption = CONFIG,
) -> None:
    """Write the whole ledger, as it is at one moment, to a file; without private keys."""

    from ra_gateway.ca.ledger.backup import dump
    from ra_gateway.ca.ledger.backups import record_backup
    from ra_gateway.clocks import now

    async def write(ledger: Ledger, settings: CAConfig) -> str:
        with progress("Writing") as step:
            count = (await dump(ledger, file, now(), step)).row_count
        say(f"Wrote {count} rows to {file}.")
        # Before the line of the backup itself, which the dump has not: it is to have the checkpoint's.
        rewritten = await _checkpoint(ledger, settings)
        if not rewritten:
            await record_backup(ledger, file, count, actor(), now())
        return rewritten

    if rewritten := with_ledger(config, write):
        fail([f"{rewritten}. Run `ra-gateway ca verify`, and keep the backups of before."], 1)


@ca_app.command("restore", examples=("ra-gateway ca restore ledger.dump --config new-ca.toml",))
def ca_restore(
    file: Annotated[Path, typer.Argument(help="Dump from `ra-gateway ca backup`.")],
    config: ConfigOption = CONFIG,
) -> None:
    """Fill an empty ledger, SQLite or PostgreSQL, from a dump: with all of it, or nothing."""

    from ra_gateway.app.ledger import ca_checkpoints
    from ra_gateway.ca.keys import issuing_certificates
    from ra_gateway.ca.ledger.backup import restore
    from ra_gateway.ca.ledger.checkpoints import TrailRewritten

    async def read(ledger: Ledger, settings: CAConfig) -> None:
        with progress("Reading") as step:
            dumped = await restore(
                file, ledger, step, issuing_certificates(settings.directory_path)
            )
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


@ca_app.command(
    "verify", examples=("ra-gateway ca verify --sample 1000", "ra-gateway ca verify --json")
)
def ca_verify(
    sample: Annotated[
        int | None, typer.Option(min=1, help="How many signatures to verify; else all.")
    ] = None,
    as_json: JSONOption = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Check the ledger against its certificates and CRLs and the audit trail."""

    from ra_gateway.app.ledger import ca_checkpoints
    from ra_gateway.ca.keys import issuing_certificates
    from ra_gateway.ca.ledger.belonging import require_own_ledger
    from ra_gateway.ca.ledger.verify import RESTORE, Finding, Verified, verify
    from ra_gateway.clocks import now

    async def check(
        ledger: Ledger, settings: CAConfig
    ) -> tuple[Verified, list[Checkpoint], Checkpoints]:
        issuers = issuing_certificates(settings.directory_path)
        await require_own_ledger(ledger, issuers)
        checkpoints = ca_checkpoints(settings)
        known = checkpoints.read()
        with progress("Verifying") as step:
            found = await verify(
                ledger, issuers, now(), checkpoints=known, sample=sample, progress=step
            )
        if not found.findings and (rewritten := await _checkpoint(ledger, settings)):
            found.findings.append(Finding("audit trail", rewritten, RESTORE))
        return found, known, checkpoints

    found, known, checkpoints = with_ledger(config, check)
    last = known[-1].at if known else None
    if as_json:
        facts = {
            "good": not found.findings,
            "findings": [asdict(finding) for finding in found.findings],
            "checkpoints": len(known),
            "last_checkpoint": last,
            "older_lines": found.older_lines,
        }
        print_json(plain(facts))
        raise typer.Exit(1 if found.findings else 0)
    if found.findings:
        fail([*map(str, found.findings), f"{len(found.findings)} finding(s)."], 1)
    say("The ledger, its certificates and CRLs and the audit trail agree.")
    if known:
        say(f"The trail has all {len(known)} checkpoint(s), the last of {day(last)} UTC.")
    else:
        say(
            f"There was no checkpoint yet: that nothing was cut off before is not known ({checkpoints.path})."
        )
    if found.older_lines:
        say(
            f"{found.older_lines} line(s) of the trail are of an older release and do not say all; "
            "what they leave open was not compared."
        )


async def _checkpoint(ledger: Ledger, settings: CAConfig) -> str:
    """Write down where the audit trail ends; return what is wrong if it does not go on from the last time."""
    from ra_gateway.app.ledger import ca_checkpoints
    from ra_gateway.ca.ledger.checkpoints import TrailRewritten
    from ra_gateway.clocks import now

    checkpoints = ca_checkpoints(settings)
    try:
        await checkpoints.append(ledger, now())
    except TrailRewritten as error:
        return str(error)
    except OSError as error:
        note(f"No checkpoint was written to {checkpoints.path}: {error.strerror or error}.")
    return ""


@ca_app.command("crl", examples=("ra-gateway ca crl",))
def ca_crl(
    delta: Annotated[bool, typer.Option("--delta", help="Delta CRLs.")] = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Make a CRL of every issuing CA now, due or not."""

    from ra_gateway.app.ca import ca_keys, crl_publisher
    from ra_gateway.clocks import now

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


ca_app.command(
    "cross-sign",
    examples=(
        "ra-gateway ca cross-sign ca op2.csr --crl-url http://pki.example.net/crl/root.crl --permit op2.example",
    ),
)(ca_cross_sign)
ca_app.command(
    "root-crl", examples=("ra-gateway ca root-crl ca --revoke 5b1f03c9 --reason superseded",)
)(ca_root_crl)


# --- certificates -----------------------------------------------------------------------------------------------


ca_app.command("sign", examples=("ra-gateway ca sign seg.csr --out seg.pem --profile seg",))(
    ca_sign
)
ca_app.command(
    "list",
    examples=(
        "ra-gateway ca list --expires-within 30",
        "ra-gateway ca list --status revoked --json",
    ),
)(ca_list)
ca_app.command(
    "show",
    examples=(
        "ra-gateway ca show 5b1f03c9",
        "ra-gateway ca show 5b1f03c9 --pem",
    ),
)(ca_show)
ca_app.command("history", examples=("ra-gateway ca history SN-000001",))(ca_history)
ca_app.command(
    "revoke", examples=("ra-gateway ca revoke 5b1f03c9 --reason keyCompromise --device",)
)(ca_revoke)
