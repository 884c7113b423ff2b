"""`ra-gateway ca role` and `ca ra`: the registration authorities of the CA."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ra_gateway.ca.records import DEFAULT_PROFILE, Authority, Privilege, Role
from ra_gateway.cli.ledger_context import actor, with_ledger
from ra_gateway.cli.output import (
    CONFIG,
    Commands,
    ConfigOption,
    JSONOption,
    KeyKindOption,
    SANOption,
    day,
    note,
    read_password,
    require_name,
    require_san,
    say,
    say_for_elsewhere,
    show_facts,
    show_list,
)
from ra_gateway.config.source import Source
from ra_gateway.errors import ConfigError

if TYPE_CHECKING:
    from ra_gateway.ca.ledger.ledger import Ledger
    from ra_gateway.cmp.certificates import Certificate
    from ra_gateway.cmp.crmf import Extension
    from ra_gateway.cmp.protection import Credential
    from ra_gateway.config.ca_tables import CAConfig

role_app = Commands(
    name="role", help="Roles: what registration authorities may have done.", no_args_is_help=True
)
ra_app = Commands(
    name="ra", help="Registration authorities and their certificates.", no_args_is_help=True
)

RoleName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the role.")]
RAName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the RA.")]
SubjectsOption = Annotated[
    list[str] | None,
    typer.Option(help="Pattern of subjects it may ask for, such as CN=enb-*,O=Operator."),
]
SANsOption = Annotated[
    list[str] | None,
    typer.Option(help="Pattern of other names it may ask for, such as dns:enb-*.example.net."),
]


# --- roles ------------------------------------------------------------------------------------------------------


@role_app.command(
    "add",
    examples=("ra-gateway ca role add ra --privilege issue --privilege update --privilege revoke",),
)
def role_add(
    name: RoleName,
    privilege: Annotated[
        list[Privilege], typer.Option(help="What it lets be done; may be repeated.")
    ],
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help='Profile it may ask for, the usual one first; "default", and else, is what ca.profile says.'
        ),
    ] = None,
    subjects: SubjectsOption = None,
    sans: SANsOption = None,
    others: Annotated[
        bool | None,
        typer.Option(
            help="Renew and revoke also what others had issued, where these names fit; else what it has."
        ),
    ] = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Make a role, or change what it lets be done; the names it has stay where none are given."""

    from ra_gateway.app.profiles import ca_profiles, grantable
    from ra_gateway.app.warnings import allows_all
    from ra_gateway.clocks import now

    async def put(ledger: Ledger, settings: CAConfig) -> Role:
        known = [*grantable(ca_profiles(settings)), DEFAULT_PROFILE]
        names = tuple(profile or (DEFAULT_PROFILE,))
        unknown = [item for item in names if item not in known]
        if unknown:
            raise ConfigError.of(
                f"role {name}",
                f"there is no profile {unknown[0]!r} for it",
                f"There are: {', '.join(known)}",
            )
        before = next((item for item in await ledger.registry.roles() if item.name == name), None)
        role = replace(
            before or Role(name, frozenset(), ()), privileges=frozenset(privilege), profiles=names
        )
        if subjects is not None:
            role = replace(role, subjects=tuple(subjects))
        if sans is not None:
            role = replace(role, sans=tuple(sans))
        if others is not None:
            role = replace(role, others=others)
        await ledger.registry.put_role(role, actor(), now())
        return role

    role = with_ledger(config, put)
    parts = [_privileges(role), ", ".join(role.profiles)]
    if names := _names(role):
        parts.append(f"{names}{', of others too' if role.others else ''}")
    say(f"The role {name}: {'; '.join(parts)}.")
    for pattern in filter(allows_all, (*role.subjects, *role.sans)):
        say(
            f'warning: "{pattern}" allows every name, also that of a server or of any other device. '
            'Give patterns of the names that there are, such as "CN=enb-*,O=Operator".'
        )


def _bounds(bound: Role | Authority) -> str:
    """Return the patterns of names for people, "" for none."""
    from ra_gateway.cmp.names import readable_text

    return " or ".join(map(readable_text, (*bound.subjects, *bound.sans)))


def _names(role: Role) -> str:
    """Return the names for which a role may have certificates made, for people; "" if it may have none made."""
    if bounds := _bounds(role):
        return bounds
    return "any name" if role.privileges & {Privilege.issue, Privilege.update} else ""


def _privileges(role: Role) -> str:
    return ", ".join(privilege for privilege in Privilege if privilege in role.privileges)


@role_app.command("list", examples=("ra-gateway ca role list",))
def role_list(as_json: JSONOption = False, config: ConfigOption = CONFIG) -> None:
    """List all roles."""
    roles = with_ledger(config, lambda ledger, _: ledger.registry.roles())
    columns = {
        "name": "Name",
        "privileges": "Privileges",
        "profiles": "Profiles",
        "bounds": "Names",
    }
    rows = [_role_values(role) | ({} if as_json else {"bounds": _names(role)}) for role in roles]
    show_list(columns, rows, as_json=as_json)


@role_app.command("show", examples=("ra-gateway ca role show ra",))
def role_show(name: RoleName, as_json: JSONOption = False, config: ConfigOption = CONFIG) -> None:
    """Show a role and who has it."""

    async def find(ledger: Ledger, _: CAConfig) -> tuple[Role | None, list[str]]:
        role = next((role for role in await ledger.registry.roles() if role.name == name), None)
        authorities = await ledger.registry.authorities()
        return role, [item.name for item in authorities if item.role == role]

    role, members = with_ledger(config, find)
    if role is None:
        raise ConfigError.of(
            f"role {name}", "does not exist", "`ra-gateway ca role list` shows all there are"
        )
    show_facts(
        {
            "name": "Name",
            "privileges": "Privileges",
            "profiles": "Profiles",
            "subjects": "Subjects",
            "sans": "Other names",
            "others": "Others' certificates",
            "members": "Members",
        },
        _role_values(role) | {"members": members if members or as_json else "none"},
        as_json=as_json,
    )


def _role_values(role: Role) -> dict[str, Any]:
    from ra_gateway.cmp.names import readable_text

    return {
        "name": role.name,
        "privileges": [item for item in Privilege if item in role.privileges],
        "profiles": role.profiles,
        "subjects": tuple(map(readable_text, role.subjects)),
        "sans": tuple(map(readable_text, role.sans)),
        "others": role.others,
    }


@role_app.command("delete", examples=("ra-gateway ca role delete ra",))
def role_delete(name: RoleName, config: ConfigOption = CONFIG) -> None:
    """Delete a role that nobody has."""
    from ra_gateway.clocks import now

    with_ledger(config, lambda ledger, _: ledger.registry.delete_role(name, actor(), now()))
    say(f"Deleted the role {name}.")


# --- registration authorities -----------------------------------------------------------------------------------

RoleOption = Annotated[
    str | None, typer.Option(help="Its role; needed for a new RA, else it keeps what it has.")
]


@ra_app.command("add", examples=("ra-gateway ca ra add gateway --role ra --certificate ra.pem",))
def ra_add(
    name: RAName,
    certificate: Annotated[Path, typer.Option(help="Certificate it signs with, PEM.")],
    role: RoleOption = None,
    subjects: SubjectsOption = None,
    sans: SANsOption = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Register an RA, or one more certificate of a registered one; the names it has stay where none are given."""
    from ra_gateway.clocks import now
    from ra_gateway.cmp.oids import OID
    from ra_gateway.keys import load_certificates

    found = load_certificates(certificate, "--certificate")[0]

    async def add(ledger: Ledger, _: CAConfig) -> None:
        ours = await ledger.record_of(found, now()) is not None
        if ours and OID.cmcRA not in found.extended_key_usage:
            raise ConfigError.of(
                str(certificate),
                f"is an end entity's certificate of this CA: {found.subject}",
                "Make the RA's own with `ra-gateway ca ra issue`",
            )
        await _put_authority(ledger, name, role, subjects, sans, found.der)

    with_ledger(config, add)
    if OID.cmcRA not in found.extended_key_usage:
        note(
            "The certificate does not say that it is an RA's (cmcRA): make sure that it is no device's."
        )
    say(f"The CA hears {found.subject} as {name} within a few seconds.")


async def _put_authority(
    ledger: Ledger,
    name: str,
    role: str | None,
    subjects: list[str] | None,
    sans: list[str] | None,
    certificate_der: bytes | None = None,
) -> Authority | None:
    """Make an RA, or change its role and names, and add a certificate with it; return what it was before."""
    from ra_gateway.clocks import now

    before = await _find_authority(ledger, name)
    if before is None and role is None:
        raise ConfigError.of(
            f"ra {name}", "is not registered", "Register it with --role; `ra-gateway ca ra list`"
        )
    wanted = role or (before.role.name if before is not None else "")
    if before is None or before.role.name != wanted or subjects is not None or sans is not None:
        await ledger.registry.put_authority(
            name,
            wanted,
            actor(),
            now(),
            subjects=subjects,
            sans=sans,
            certificate_der=certificate_der,
        )
    elif certificate_der is not None:
        await ledger.registry.add_authority_certificate(name, certificate_der, actor(), now())
    return before


async def _find_authority(ledger: Ledger, name: str) -> Authority | None:
    authorities = await ledger.registry.authorities()
    return next((item for item in authorities if item.name == name), None)


@ra_app.command(
    "issue",
    examples=(
        "ra-gateway ca ra issue gateway --role ra --subject CN=ra1,O=Operator \\\n"
        "      --out gateway.p12 --password-file transport.password",
    ),
)
def ra_issue(
    name: RAName,
    out: Annotated[Path, typer.Option(help="PKCS#12 file to be written.")],
    password_file: Annotated[Path, typer.Option(help="File with the password for it.")],
    role: RoleOption = None,
    subjects: SubjectsOption = None,
    sans: SANsOption = None,
    subject: Annotated[
        str | None, typer.Option(help="RFC 4514; else that of its newest certificate.")
    ] = None,
    san: SANOption = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Validity in days.")] = 1095,
    key_kind: KeyKindOption = "p256",
    config: ConfigOption = CONFIG,
) -> None:
    """Make key and certificate of an RA as PKCS#12; its other certificates go on being heard."""
    from ra_gateway.app.ca import ca_keys
    from ra_gateway.app.profiles import ca_profiles
    from ra_gateway.ca.by_hand import issue
    from ra_gateway.ca.hierarchy import parse_subject
    from ra_gateway.ca.ra_credential import export_pkcs12
    from ra_gateway.clocks import now
    from ra_gateway.cmp.crmf import CertTemplate
    from ra_gateway.config.reading import is_of_ca_alone
    from ra_gateway.keys import KEY_KINDS, spki_der

    if subject is not None:
        require_name(subject, "--subject")
        parse_subject(subject)
    for text in san or ():
        require_san(text)
    if out.exists():
        raise ConfigError.of(str(out), "exists already", "Choose another file name")
    password = read_password(password_file) or b""
    if not password:
        raise ConfigError.of(str(password_file), "is empty", "Write a password to it")

    async def make(ledger: Ledger, settings: CAConfig) -> Certificate:
        keys, profiles = ca_keys(settings), ca_profiles(settings)
        issuer = keys.issuers[0]
        before = await _put_authority(ledger, name, role, subjects, sans)
        private_key = KEY_KINDS[key_kind]()
        certificate, _ = await issue(
            CertTemplate(
                subject_der=_ra_subject(name, subject, before),
                spki_der=spki_der(private_key),
                extensions=_ra_names(san, before),
            ),
            replace(profiles["ra"], validity_days=days),
            issuer,
            ledger,
            actor=actor(),
            now=now(),
            own=True,
        )
        export_pkcs12(out, certificate, private_key, (issuer.certificate, *issuer.chain), password)
        await ledger.registry.add_authority_certificate(name, certificate.der, actor(), now())
        return certificate

    certificate = with_ledger(config, make)
    say(
        f"Wrote {out}: {certificate.subject}, serial {certificate.serial_number:x}, "
        f"until {day(certificate.not_after)} UTC."
    )
    if is_of_ca_alone(config):
        files = f"{shlex.quote(out.name)} --password-file {shlex.quote(password_file.name)}"
        say_for_elsewhere(f"At the gateway, with both files: ra-gateway ca ra install {files}")
    else:
        files = f"{shlex.quote(str(out))} --password-file {shlex.quote(str(password_file))}"
        say(f"At the gateway: ra-gateway ca ra install {files}")
    say(f"Then, here: ra-gateway ca ra show {shlex.quote(name)}")
    say(f"And for the old one: ra-gateway ca ra remove-certificate {shlex.quote(name)} FINGERPRINT")


def _ra_subject(name: str, subject: str | None, before: Authority | None) -> bytes:
    from ra_gateway.cmp.certificates import Certificate
    from ra_gateway.cmp.names import from_rfc4514

    if subject is not None:
        return from_rfc4514(subject)
    if before is None or not before.certificates:
        raise ConfigError.of(
            f"ra {name}",
            "has no certificate so far",
            "Say its subject: --subject CN=ra1,O=Operator",
        )
    return Certificate.from_der(before.certificates[-1]).subject_der


def _ra_names(san: list[str] | None, before: Authority | None) -> tuple[Extension, ...]:
    """Return the SubjectAltName that is asked for, else that of the newest certificate."""
    from ra_gateway.cmp.certificates import Certificate
    from ra_gateway.cmp.crmf import Extension
    from ra_gateway.cmp.names import general_names_der
    from ra_gateway.cmp.oids import OID

    san_der = general_names_der(san) if san else None
    if san_der is None and before is not None and before.certificates:
        san_der = Certificate.from_der(before.certificates[-1]).subject_alt_name_der
    return () if san_der is None else (Extension(OID.subjectAltName, False, san_der),)


@ra_app.command("list", examples=("ra-gateway ca ra list",))
def ra_list(as_json: JSONOption = False, config: ConfigOption = CONFIG) -> None:
    """List all RAs."""
    columns = {
        "name": "Name",
        "status": "Status",
        "role": "Role",
        "privileges": "Privileges",
        "certificates": "Certificates",
        "not_after": "Newest until",
    }
    authorities = with_ledger(config, lambda ledger, _: ledger.registry.authorities())
    show_list(columns, map(_authority_values, authorities), as_json=as_json)


@ra_app.command("show", examples=("ra-gateway ca ra show gateway",))
def ra_show(name: RAName, as_json: JSONOption = False, config: ConfigOption = CONFIG) -> None:
    """Show an RA and the certificates it may sign with."""
    from ra_gateway.cmp.certificates import Certificate

    authority = with_ledger(config, lambda ledger, _: _find_authority(ledger, name))
    if authority is None:
        raise ConfigError.of(
            f"ra {name}", "is not registered", "`ra-gateway ca ra list` shows all there are"
        )
    columns = {
        "fingerprint": "Fingerprint (SHA-256)",
        "serial": "Serial",
        "subject": "Subject",
        "not_after": "Not after",
    }
    certificates = [
        {
            "fingerprint": item.fingerprint.hex(),
            "serial": f"{item.serial_number:x}",
            "subject": item.subject,
            "not_after": item.not_after,
        }
        for item in map(Certificate.from_der, authority.certificates)
    ]
    values = _authority_values(authority)
    if as_json:
        values["certificates"] = certificates
    else:
        values |= {"bounds_of_role": _names(authority.role), "bounds": _bounds(authority)}
    show_facts(
        {
            "name": "Name",
            "status": "Status",
            "role": "Role",
            "privileges": "Privileges",
            "profiles": "Profiles",
            "bounds_of_role": "Names of its role",
            "bounds": "Names of its own",
        },
        values,
        as_json=as_json,
    )
    if not as_json:
        show_list(columns, certificates, as_json=False)


def _authority_values(authority: Authority) -> dict[str, Any]:
    from ra_gateway.cmp.certificates import Certificate

    until = [Certificate.from_der(der).not_after for der in authority.certificates]
    role = _role_values(authority.role)
    return {
        "name": authority.name,
        "status": "active" if authority.enabled else "blocked",
        "role": authority.role.name,
        "privileges": role["privileges"],
        "profiles": role["profiles"],
        "subjects": authority.subjects,
        "sans": authority.sans,
        "certificates": len(until),
        "not_after": max(until, default=None),
    }


@ra_app.command(
    "remove-certificate", examples=("ra-gateway ca ra remove-certificate gateway 5b1f03c9a7e2",)
)
def ra_remove_certificate(
    name: RAName,
    fingerprint: Annotated[
        str, typer.Argument(help="SHA-256 in hexadecimal, or its first digits, at least eight.")
    ],
    config: ConfigOption = CONFIG,
) -> None:
    """Hear a certificate of an RA no more, as after a rollover."""
    from ra_gateway.clocks import now
    from ra_gateway.cmp.certificates import Certificate

    digits = fingerprint.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", digits):
        raise typer.BadParameter(f"{fingerprint!r} is not eight or more hexadecimal digits")

    async def remove(ledger: Ledger, _: CAConfig) -> tuple[bytes, int]:
        authority = await _find_authority(ledger, name)
        prints = [
            Certificate.from_der(der).fingerprint
            for der in (authority.certificates if authority else ())
        ]
        matching = [item for item in prints if item.hex().startswith(digits)]
        if len(matching) > 1:
            raise ConfigError.of(f"ra {name}", "more than one begins so", "Give more digits")
        wanted = matching[0] if matching else bytes.fromhex(digits.ljust(64, "0"))
        await ledger.registry.remove_authority_certificate(name, wanted, actor(), now())
        return wanted, len(prints) - 1

    removed, left = with_ledger(config, remove)
    say(f"{name} is not heard with {removed.hex()} any more; {left} certificate(s) left.")


@ra_app.command("block", examples=("ra-gateway ca ra block gateway",))
def ra_block(name: RAName, config: ConfigOption = CONFIG) -> None:
    """Hear an RA no more, whatever it signs with."""
    _set_enabled(config, name, False)
    say(f"Blocked {name}, within a few seconds.")


@ra_app.command("unblock", examples=("ra-gateway ca ra unblock gateway",))
def ra_unblock(name: RAName, config: ConfigOption = CONFIG) -> None:
    """Hear a blocked RA again."""
    _set_enabled(config, name, True)
    say(f"{name} is heard again.")


def _set_enabled(config: Source, name: str, enabled: bool) -> None:
    from ra_gateway.clocks import now

    with_ledger(
        config,
        lambda ledger, _: ledger.registry.set_authority_enabled(name, enabled, actor(), now()),
    )


@ra_app.command("delete", examples=("ra-gateway ca ra delete gateway",))
def ra_delete(name: RAName, config: ConfigOption = CONFIG) -> None:
    """Delete an RA; what it had issued stays valid."""
    from ra_gateway.clocks import now

    with_ledger(config, lambda ledger, _: ledger.registry.delete_authority(name, actor(), now()))
    say(f"Deleted {name}. Its own certificates stay valid: `ra-gateway ca revoke` ends them.")


_OF_ANOTHER_CA: Final = (
    "Give the file that `ra-gateway ca ra issue` of this operator's CA wrote. If its issuing CA is a new one, list "
    "that in operator.intermediates_paths first. Nothing was changed"
)


@ra_app.command(
    "install", examples=("ra-gateway ca ra install gateway.p12 --password-file transport.password",)
)
def ra_install(
    file: Annotated[Path, typer.Argument(help="PKCS#12 file from `ra-gateway ca ra issue`.")],
    password_file: Annotated[Path, typer.Option(help="File with its password.")],
    config: ConfigOption = CONFIG,
) -> None:
    """At the gateway: put key and certificate where [ra] of the configuration says; the old ones are kept."""
    from ra_gateway.app.credential import check_ra_credential
    from ra_gateway.app.trust import certificates, operator_domain
    from ra_gateway.ca.ra_credential import install_ra
    from ra_gateway.config.reading import load
    from ra_gateway.upstream.kinds import BundledUpstream

    settings = load(config, check_files=False)
    ra = settings.ra
    operator = operator_domain(settings)
    chain = certificates(ra.chain_paths, "ra.chain_paths")

    def check(credential: Credential) -> None:
        """Refuse what base stations or the CA in this process would not believe, before the old one is gone."""
        known = replace(credential, chain=(*credential.chain, *chain))
        try:
            check_ra_credential(known, operator)
        except ConfigError as error:
            raise ConfigError.of(str(file), error.problems[0].what, _OF_ANOTHER_CA) from error
        if any(isinstance(item, BundledUpstream) for item in settings.upstreams.values()):
            _require_registered(config, file, credential.certificate)

    try:
        key_password = read_password(ra.key_password_path)
    except (OSError, ValueError) as error:
        # Not by its name: it might be the password itself.
        reason = error.strerror if isinstance(error, OSError) else "not a possible file name"
        raise ConfigError.of(
            "ra.key_password_path",
            f"names no file that can be read: {reason}",
            "Give a file of mode 0600",
        ) from None
    certificate = install_ra(
        file,
        read_password(password_file) or b"",
        certificate_path=ra.certificate_path,
        key_path=ra.key_path,
        key_password=key_password,
        check=check,
    )
    say(
        f"Installed {certificate.subject}, until {day(certificate.not_after)} UTC, "
        f"in {ra.certificate_path} and {ra.key_path}."
    )
    say(
        "Install it at each gateway. One that runs knows it within seconds, and begins with it ra.begin_after_seconds "
        "later (with its store in memory at once), or at a reload. The CA hears the old one until it is removed."
    )


def _require_registered(config: Source, file: Path, certificate: Certificate) -> None:
    from ra_gateway.cmp.certificates import load_certificate

    authorities = with_ledger(config, lambda ledger, _: ledger.registry.authorities())
    if any(certificate in map(load_certificate, item.certificates) for item in authorities):
        return  # a blocked RA may get its new certificate before it is heard again
    names = ", ".join(item.name for item in authorities) or "none"
    raise ConfigError.of(
        str(file),
        f"the bundled CA hears no RA with the certificate of {certificate.subject}, serial number "
        f"{certificate.serial_number:x}; there are: {names}",
        "Have a new one made by `ra-gateway ca ra issue NAME`, which registers it, or register this one by "
        "`ra-gateway ca ra add NAME --certificate FILE`. Nothing was changed",
    )
