"""`ra-gateway simulate`: a fleet of base stations, to see what a gateway carries."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from ra_gateway.cli.device import (
    CertConfCertificatesOption,
    ImplicitConfirmOption,
    TLSCAOption,
    TLSCertOption,
    TLSKeyOption,
    UrlOption,
    line_to,
)
from ra_gateway.cli.output import (
    JSONOption,
    KeyKindOption,
    err,
    note,
    print_json,
    read_password,
    require_name,
    require_san,
    run,
    say,
    show_table,
)
from ra_gateway.device.kinds import Fault, FleetRequest
from ra_gateway.errors import ConfigError

if TYPE_CHECKING:
    import ssl

    from rich.console import RenderableType

    from ra_gateway.device.fleet.figures import Figures
    from ra_gateway.device.fleet.plan import Plan
    from ra_gateway.device.fleet.running import Material

MAX_COUNT: Final = 1_000_000
_USUAL_NAME: Final = "sim-{n}"
_USUAL_COUNT: Final = 100
_USUAL_AT_ONCE: Final = 8
_USUAL_AT_ONCE_OPEN: Final = 1000

_PERCENT: Final[Any] = {"min": 0.0, "max": 100.0, "metavar": "PERCENT"}


def simulate(
    url: UrlOption,
    vendor_cert: Annotated[
        Path | None,
        typer.Option(
            help="CA of a vendor that certifies base stations on the fly, PEM; CAs above it may follow."
        ),
    ] = None,
    vendor_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    vendor_key_password: Annotated[
        Path | None,
        typer.Option(help="File with the password of --vendor-key, if that is encrypted."),
    ] = None,
    devices: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Base stations instead: NAME/cert.pem and key.pem, as --out writes them, or NAME.pem and NAME.key.",
        ),
    ] = None,
    chain: Annotated[
        list[Path] | None, typer.Option(help="Vendor sub-CA certificates, PEM.")
    ] = None,
    trusted: Annotated[
        Path | None,
        typer.Option(help="Operator root, PEM; without it, the one that comes with the ip."),
    ] = None,
    request: Annotated[
        FleetRequest, typer.Option(help="What each asks for first; kur with --devices.")
    ] = FleetRequest.ir,
    name: Annotated[
        str, typer.Option(help="Name of base stations that are made; {n} is the number.")
    ] = _USUAL_NAME,
    subject: Annotated[
        str | None,
        typer.Option(help="Subject to ask for, RFC 4514; {n} is the number, {name} the name."),
    ] = None,
    san: Annotated[list[str] | None, typer.Option(help="Such as dns:{name}.example.net.")] = None,
    key_kind: KeyKindOption = "p256",
    implicit_confirm: ImplicitConfirmOption = False,
    certconf_certificates: CertConfCertificatesOption = False,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_COUNT,
            help="How many base stations; 100, those of --devices, or as many as fit into --duration.",
        ),
    ] = None,
    first: Annotated[int, typer.Option(min=0, help="Number of the first one.")] = 1,
    duration: Annotated[
        float | None, typer.Option(min=0.1, max=604_800, help="Seconds in which they begin.")
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=20_000,
            help="How many are under way at the same time: 8 of them; with --rate or --storm 1000, at most.",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=10_000, help="How many come a second, however slow the answers are."
        ),
    ] = None,
    ramp: Annotated[
        float, typer.Option(min=0, max=86_400, help="Seconds in which --rate rises from 0.")
    ] = 0.0,
    storm: Annotated[bool, typer.Option(help="All are due at the same moment.")] = False,
    renewals: Annotated[
        int, typer.Option(min=0, max=1000, help="How often each renews what it got (kur).")
    ] = 0,
    renew_after: Annotated[
        float, typer.Option(min=0, max=86_400, help="Seconds before each renewal.")
    ] = 0.0,
    lose_requests: Annotated[
        float, typer.Option(**_PERCENT, help="Of messages that get lost on their way there.")
    ] = 0.0,
    lose_answers: Annotated[
        float, typer.Option(**_PERCENT, help="Of answers that get lost on their way back.")
    ] = 0.0,
    repeat: Annotated[
        float, typer.Option(**_PERCENT, help="Of messages that are sent again after the answer.")
    ] = 0.0,
    faulty: Annotated[
        float, typer.Option(**_PERCENT, help="Of base stations that have one --fault.")
    ] = 0.0,
    fault: Annotated[
        list[Fault] | None,
        typer.Option(
            help="What faulty ones do wrong; may be repeated, one of them each: pop, clock, unknown-vendor by default."
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.01, max=3600, help="Seconds that each waits for an answer.")
    ] = 30.0,
    retransmissions: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="How often a message that is not answered, or with HTTP 503, is sent again.",
        ),
    ] = 3,
    retransmit_after: Annotated[
        float,
        typer.Option(min=0, max=3600, help="Seconds before that, where nothing was waited for."),
    ] = 5.0,
    patience: Annotated[
        float,
        typer.Option(min=0, max=604_800, help="Seconds that each may be told to wait, in all."),
    ] = 600.0,
    share_connections: Annotated[
        bool, typer.Option(help="Keep connections and share them, instead of one for each.")
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that share the work.")
    ] = 1,
    seed: Annotated[
        int, typer.Option(min=0, help="Of arrivals, losses and faults: the same again.")
    ] = 0,
    fleet: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000_000, help="Base stations that the advice is for; as many as came."
        ),
    ] = None,
    allow_failures: Annotated[
        float, typer.Option(**_PERCENT, help="Of operations that may fail; the exit code is 0.")
    ] = 0.0,
    tls_ca: TLSCAOption = None,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIRECTORY",
            help="Where certificates and keys go, if they are to be kept.",
        ),
    ] = None,
    target_is_mine: Annotated[
        bool,
        typer.Option(
            "--target-is-mine",
            help="Load a gateway that is not on this machine: it is yours to load.",
        ),
    ] = False,
    as_json: JSONOption = False,
) -> None:
    """Be a fleet of base stations, and say what the gateway carries, how long it took, and what came of it."""
    from ra_gateway.cli.setup import require_empty
    from ra_gateway.cmp.codes import BodyType
    from ra_gateway.device.fleet.plan import Behaviour, Load, Plan
    from ra_gateway.device.fleet.running import Material
    from ra_gateway.device.fleet.sources import Origin, count_devices
    from ra_gateway.device.fleet.summary import summarized

    host = urlsplit(url).hostname or ""
    if not (target_is_mine or _is_here(host)):
        raise ConfigError.of(
            "--url",
            f"{host} is not this machine, and a fleet of base stations can keep a gateway from its work",
            "Say that it may be loaded with --target-is-mine: a staging gateway of your own, with its own CA and store",
        )
    of_vendor = (vendor_cert, vendor_key)
    unused = devices is not None and any((*of_vendor, vendor_key_password))
    if unused or (devices is None and None in of_vendor):
        raise typer.BadParameter("Give --vendor-cert and --vendor-key, or --devices")
    if devices is not None and name != _USUAL_NAME:
        raise typer.BadParameter("--name goes with --vendor-cert: --devices have names")
    if request is FleetRequest.kur and devices is None:
        raise typer.BadParameter("kur goes with --devices that have certificates of the operator")
    if request is not FleetRequest.ir and trusted is None:
        raise typer.BadParameter(f"{request} needs --trusted: only an ir brings the root")
    if storm and rate is not None:
        raise typer.BadParameter("--storm and --rate are two kinds of load: give one")
    if ramp and rate is None:
        raise typer.BadParameter("--ramp goes with --rate")
    if renew_after and not renewals:
        raise typer.BadParameter("--renew-after goes with --renewals")
    if bool(fault) and not faulty:
        raise typer.BadParameter("--fault goes with --faulty PERCENT")
    _require_names(name, subject, san or ())
    there = None if devices is None else count_devices(devices)
    number = count or (MAX_COUNT if duration else _USUAL_COUNT) if there is None else count or there
    if there is not None and number > there and (directory or request is FleetRequest.kur):
        what = "renewed" if directory is None else "kept in --out"
        raise typer.BadParameter(f"--devices has {there} certificates, and each is {what} once")
    load = Load.storm if storm else Load.at_once if rate is None else Load.rate
    usual = _USUAL_AT_ONCE if load is Load.at_once else _USUAL_AT_ONCE_OPEN
    if directory is not None:
        require_empty(directory)
    plan = Plan(
        url=url,
        behaviour=Behaviour(
            request=BodyType[request],
            subject=subject,
            san=tuple(san or ()),
            key_kind=key_kind,
            implicit_confirm=implicit_confirm,
            certconf_certificates=certconf_certificates,
            renewals=renewals,
            renew_after_seconds=renew_after,
            lost_requests=lose_requests / 100,
            lost_answers=lose_answers / 100,
            repeated=repeat / 100,
            faulty=faulty / 100,
            faults=tuple(fault or (Fault.pop, Fault.clock, Fault.unknown_vendor)),
            timeout_seconds=timeout,
            retransmissions=retransmissions,
            retransmit_after_seconds=retransmit_after,
            patience_seconds=patience,
            own_connection=not share_connections,
        ),
        load=load,
        count=number,
        first=first,
        at_once=min(at_once or usual, number),
        per_second=rate or 0.0,
        ramp_seconds=ramp,
        duration_seconds=duration,
        seed=seed,
        processes=min(processes, number, at_once or usual),
        out=directory,
    )
    origin = Origin(
        certificate=vendor_cert,
        key=vendor_key,
        password=read_password(vendor_key_password),
        chain=tuple(chain or ()),
        name=name,
        key_kind=key_kind,
        devices=devices,
        first=first,
    )
    material = Material(origin, trusted, partial(_tls, url, tls_ca, tls_cert, tls_key))
    for read in (origin.open, material.trust, material.tls):
        read()  # what is wrong with a file is told before anything begins
    _allow_connections(plan)
    figures, interrupted = run(_simulated(plan, material))
    told = summarized(
        plan,
        figures,
        devices=fleet or max(1, figures.begun),
        allowed=allow_failures / 100,
        interrupted=interrupted,
    )
    print_json(told) if as_json else show_summary(told)
    if not told["as_expected"]:
        raise typer.Exit(1)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _require_names(name: str, subject: str | None, san: Sequence[str]) -> None:
    if not re.fullmatch(r"[A-Za-z0-9-]*\{n\}[A-Za-z0-9-]*", name) or len(name) > 40:
        raise typer.BadParameter(
            f"--name {name[:60]!r} is no label of a domain name with {{n}} in it: write sim-{{n}}"
        )
    if subject is not None:
        require_name(_filled(subject, "--subject"), "--subject")
    for text in san:
        require_san(_filled(text, "--san"))


def _filled(text: str, option: str) -> str:
    if unknown := set(re.findall(r"\{[^}]*\}", text)) - {"{n}", "{name}"}:
        raise typer.BadParameter(f"{min(unknown)} in {option} is neither {{n}} nor {{name}}")
    return text.replace("{n}", "1").replace("{name}", "sim-1")


def _tls(url: str, ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    return line_to(url, ca, cert, key, None, None).tls


def _allow_connections(plan: Plan) -> None:
    """Raise the bound of open files to what so many connections need.

    Raises:
        ConfigError: It may not be raised so far.
    """
    needed = plan.at_once // plan.processes + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (resource.RLIM_INFINITY,) and needed > hard:
        raise ConfigError.of(
            "--at-once",
            f"{plan.at_once} connections are more than this process may open ({hard} files)",
            "Give less, more --processes, or run it after: ulimit -n 65536",
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def _simulated(plan: Plan, material: Material) -> tuple[Figures, bool]:
    """Run it, with a picture of how far it is on a terminal; returns whether it was ended before its time, too."""
    import asyncio

    from ra_gateway.device.fleet.driving import Stop
    from ra_gateway.device.fleet.running import simulate as run_fleet

    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    with _live(plan) as report:
        figures = await run_fleet(plan, material, stop, report)
    return figures, stop.soon.is_set()


@contextmanager
def _live(plan: Plan) -> Iterator[Callable[[Figures], None]]:
    """Show how far a simulation is, on a terminal; nothing elsewhere."""
    if not err.is_terminal:
        yield lambda figures: None
        return
    from rich.live import Live

    with Live(console=err, transient=True, refresh_per_second=4) as live:
        yield lambda figures: live.update(_picture(plan, figures))


def _picture(plan: Plan, figures: Figures) -> RenderableType:
    from rich.table import Table

    from ra_gateway.device.fleet.figures import Outcome
    from ra_gateway.device.fleet.summary import cpu_shares

    issued = figures.count(Outcome.issued)
    rows = figures.timeline.rows()[-6:-1]  # the last one is not over
    lately = sum(span.issued for _, span in rows) / max(
        1, len(rows) * figures.timeline.width_seconds
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        f"{figures.elapsed_seconds:.0f} s",
        f"{figures.begun} of {plan.count} begun",
        f"{figures.begun - figures.ended} under way",
        f"{issued} certificates, {lately:.1f}/s lately",
        f"{figures.operations.total() - issued} refused or failed",
    )
    shares = ", ".join(f"{share:.0%}" for share in cpu_shares(figures))
    for name, times in figures.times.items():
        grid.add_row(
            "",
            name,
            f"{times.from_due.total}",
            f"p50 {times.from_due.percentile(50) * 1000:.1f} ms",
            f"p99 {times.from_due.percentile(99) * 1000:.1f} ms",
        )
    grid.add_row("", "simulator", f"{shares} of a core", "", "Ctrl-C ends it")
    return grid


# --- the summary ------------------------------------------------------------------------------------------------


def show_summary(told: Mapping[str, Any]) -> None:
    """Print for people what a simulation has shown.

    Args:
        told: Of `ra_gateway.device.fleet.summary.summarized`.
    """
    ended = ", ended before its time" if told["interrupted"] else ""
    say(
        f"{told['begun']} base stations in {told['elapsed_seconds']:.1f} s"
        f"{ended}; load {told['load']}, seed {told['seed']}."
    )
    show_table(
        ("request", "fault", "outcome", "count"),
        [
            (item["request"], item["fault"] or "", item["outcome"], str(item["count"]))
            for item in told["operations"]
        ],
    )
    show_table(
        ("ms since due", "count", "p50", "p90", "p99", "p99.9", "max", "since sent: p50", "p99"),
        [
            (
                item["name"] + (", all of it" if item["of"] == "operation" else ""),
                str(item["count"]),
                *(f"{item[f'{key}_ms']:.1f}" for key in _PERCENTILES),
            )
            for item in told["latencies"]
        ],
    )
    for text, count in told["fail_info"].items():
        say(f"failInfo {text}: {count}")
    for text, count in told["reasons"].items():
        say(f"{count} times: {text}")
    counted = {name: told[name] for name in _COUNTED if told[name]}
    if counted:
        say(", ".join(f"{_COUNTED[name]}: {count}" for name, count in counted.items()))
    if told["held"]:
        say(
            f"{told['held']} began later than due, because {told['at_once']} were under way: "
            "--at-once is the bound"
        )
    _show_capacity(told)
    for text in told["unexpected"]:
        note(f"not as expected: {text}")


_PERCENTILES: Final = ("p50", "p90", "p99", "p999", "max", "sent_p50", "sent_p99")
_COUNTED: Final = {
    "retransmitted": "retransmissions",
    "lost_requests": "requests lost",
    "lost_answers": "answers lost",
    "repeated": "repeats",
    "repeats_failed": "repeats answered otherwise",
    "issued_twice": "answered with two certificates",
}


def _show_capacity(told: Mapping[str, Any]) -> None:
    carried, simulator, advice = told["carried"], told["simulator"], told["advice"]
    shares = ", ".join(f"{share:.0%}" for share in simulator["cpu_shares"])
    say(
        f"The simulator took {shares} of a core, {simulator['cpu_ms_per_operation']:.2f} ms an operation, "
        f"and {simulator['cpu_ms_to_make_one']:.2f} ms to make each base station and sign its first message."
    )
    if _is_here(urlsplit(told["url"]).hostname or ""):
        say(
            f"The target is on this machine: simulator, gateway and CA have {os.cpu_count()} cores together."
        )
    if simulator["is_bottleneck"]:
        what, todo = (
            ("it had no CPU left", "Give --processes, or another machine")
            if simulator["is_out_of_cpu"]
            else (
                f"99 % of base stations began within {simulator['late_p99_ms']:.0f} ms of their time",
                "Its machine had too much else to do: give it another one, or a lower --rate",
            )
        )
        note(
            f"warning: the simulator was the bottleneck, and its own waiting is in these figures: {what}. {todo}"
        )
    why = {
        "gateway": "more was always asked for",
        "load": "at least: no more was asked for",
        "simulator": "at least: the simulator was the bottleneck",
    }
    say(f"Carried: {carried['per_second']:.1f} operations a second ({why[carried['bound']]}).")
    if not advice["spreads"]:
        return
    validity = ""
    if advice["validity_days"]:
        validity = (
            f" with certificates of {advice['validity_days']:g} days: "
            f"{advice['renewals_a_day']:.1f} renewals a day, if they are spread"
        )
    beyond = "too much" if carried["bound"] == "gateway" else "not shown"
    say(f"Renewals of {advice['devices']} base stations{validity}.")
    show_table(
        (
            "all within",
            "a second",
            "busiest 10 s, a second",
            f"of {advice['usable_per_second']:.1f} usable",
        ),
        [
            (
                _time(item["hours"]),
                f"{item['per_second']:.3g}",
                f"{item['peak_per_second']:.3g}",
                "carried" if item["carried"] else beyond,
            )
            for item in advice["spreads"]
        ],
    )
    say(
        f"Spread them over {_time(advice['least_hours'])} at least, each at a moment of its own chosen at random."
    )
    least = advice["least"]
    say(
        f"How that is reckoned: of {carried['per_second']:.1f} a second that were carried half is used, "
        f"{advice['usable_per_second']:.1f}, the rest is for repeats and a node that is away. "
        f"{advice['devices']} in {advice['least_hours'] * 3600:.1f} s are {least['per_second']:.3g} a second, "
        f"{least['mean']:.1f} in 10 s, and in the busiest of {least['windows']:.1f} times 10 s "
        f"{least['most']:.1f}: m + sqrt(2 m ln w) + (ln w) / 3 for m on average in each of w, or all of them at most."
    )


def _time(hours: float) -> str:
    """Return a span of time for people."""
    for unit, length in (("day", 24.0), ("hour", 1.0), ("minute", 1 / 60)):
        if hours >= length:
            return f"{hours / length:.3g} {unit}{'' if hours == length else 's'}"
    seconds = max(1, math.ceil(hours * 3600))
    return f"{seconds} second{'' if seconds == 1 else 's'}"
