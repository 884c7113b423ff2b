"""What a worker does when its parent asks, in this process: it goes over when all do, and not before."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ra_gateway import __version__
from ra_gateway.app import worker as workers
from ra_gateway.app import workers as parents
from ra_gateway.app.channel import Asking, Channel, WorkerGone
from ra_gateway.app.endpoints import secret_files_of
from ra_gateway.app.running import bound
from ra_gateway.app.worker import Worker
from ra_gateway.config.reading import load
from ra_gateway.config.source import Source
from ra_gateway.errors import ConfigError
from ra_gateway.tasks import ended
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI
from tests.support.reloading import other_vendor
from tests.support.setups import edit, make_setup
from tests.support.stations import until


def asked(config: Path, what: str, **more: Any) -> dict[str, Any]:
    return {"what": what, "worker": 1, "source": Source(config).kept().plain(), **more}


@pytest.fixture
async def serving(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Worker, Path]]:
    """A worker that serves."""
    monkeypatch.setattr(workers, "settle", lambda: None)  # of the tests' process
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    worker = Worker()
    ((shared,),) = await bound("127.0.0.1", 0, "server", 1)
    with shared:
        numbers = {"server": [[shared.dup().detach()]]}
        begun = await worker.reply(asked(config, "start", version=__version__, sockets=numbers))
        assert begun == {"host": "127.0.0.1", "port": shared.getsockname()[1]}
    yield worker, config
    await worker.reply({"what": "stop"})
    assert worker.ended.is_set()


def vendors(worker: Worker) -> set[str]:
    assert worker._application is not None
    return {domain.name for domain in worker._application._wiring.domains} - {"operator"}


async def test_it_goes_over_at_the_second_word(serving: tuple[Worker, Path]) -> None:
    worker, config = serving
    other_vendor(config, "fresh")
    assert await worker.reply(asked(config, "prepare")) == {}
    assert vendors(worker) == {"acme"}
    assert await worker.reply({"what": "take_up"}) == {}
    assert vendors(worker) == {"acme", "fresh"}


async def test_it_stays_where_another_one_cannot_go(serving: tuple[Worker, Path]) -> None:
    worker, config = serving
    other_vendor(config, "fresh")
    for _ in range(2):
        assert await worker.reply(asked(config, "prepare")) == {}
        assert await worker.reply({"what": "leave"}) == {}
        assert vendors(worker) == {"acme"}
    # With a word outstanding it ends all the same, which the fixture does.
    assert await worker.reply(asked(config, "prepare")) == {}


async def test_it_says_what_keeps_it(serving: tuple[Worker, Path]) -> None:
    worker, config = serving
    (config.parent / "acme" / "root.pem").write_text("nothing")
    refused = await worker.reply(asked(config, "prepare"))
    assert [item["path"] for item in refused["refused"]] == ["vendors.acme.anchors_paths[0]"]
    assert await worker.reply({"what": "leave"}) == {}
    parts = (await worker.reply({"what": "look"}))["parts"]
    assert parts["process"] == ""
    metrics = (await worker.reply({"what": "metrics"}))["metrics"]
    assert "ra_gateway_http_requests" in {item[0] for item in metrics}


async def test_another_release_does_not_serve_beside_the_one_that_runs(
    tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    refused = await Worker().reply(asked(config, "start", version="0.0.1", sockets={}))
    assert refused["refused"][0]["todo"] == "Restart it"


async def test_it_ends_with_its_parent(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, without a lame duck's time: the parent that comes next wants the port."""
    monkeypatch.setattr(workers, "settle", lambda: None)
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    edit(config, "[server]\n", "[server]\nlame_duck_seconds = 600\n")
    ((shared,),) = await bound("127.0.0.1", 0, "server", 1)
    ours, theirs = socket.socketpair()
    working = asyncio.create_task(workers.work(theirs))
    asking = Asking(await Channel.over(ours))
    hearing = asyncio.create_task(asking.run())
    with shared:
        numbers = {"server": [[shared.dup().detach()]]}
        question = asked(config, "start", version=__version__, sockets=numbers)
        begun = await asking.ask(question.pop("what"), PATIENCE_SECONDS, **question)
    hearing.cancel()  # which closes its end
    async with asyncio.timeout(PATIENCE_SECONDS):
        await working
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(begun["host"], begun["port"])
    with pytest.raises(WorkerGone):
        await asking.ask("look", PATIENCE_SECONDS)


@pytest.mark.parametrize("count, most", [(1, 5), (2, 3), (64, 1)])
def test_each_counts_its_share_of_wrong_macs(
    tmp_path: Path, vendor_pki: VendorPKI, count: int, most: int
) -> None:
    """A guesser comes to all of them."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url="redis://127.0.0.1:1/0")
    (tmp_path / "secrets.csv").touch(0o600)
    (tmp_path / "secrets.csv").write_text("reference,secret,subject,san,single_use,expires\n")
    edit(config, "[server]\n", f"[server]\nworkers = {count}\n")
    config.write_text(
        f'{config.read_text()}\n[endpoints.mac]\npaths = ["/mac"]\nupstream = "bundled"\n'
        'strictness = "lenient"\nbody_types = ["ir"]\n\n[endpoints.mac.mac]\n'
        'secrets_path = "secrets.csv"\n'
    )
    (found,) = secret_files_of(load(config), {}).values()
    assert found._lockout_failures == most


async def test_one_that_does_not_answer_twice_is_killed(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is gone, no watchdog is told that all is well."""
    monkeypatch.setattr(parents, "HUNG_SECONDS", 0.05)
    monkeypatch.setattr(parents, "LOOK_SECONDS", 0.01)
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url="redis://127.0.0.1:1/0")
    edit(config, "[server]\n", "[server]\nworkers = 2\n")
    parent = parents.Workers(Source(config), load)
    one = parent._workers[0]
    ours, theirs = socket.socketpair()
    with theirs, subprocess.Popen(["sleep", str(PATIENCE_SECONDS)]) as hanging:
        one.process, one.serves, one.answered_at = hanging, True, time.monotonic()
        channel = await Channel.over(ours)
        one._asking = Asking(channel)
        assert parent.is_alive()
        watching = asyncio.create_task(parent._watch(one))
        await until(lambda: hanging.poll() is not None, "its end")
        assert hanging.returncode == -9
        one.answered_at -= 1.0
        assert not parent.is_alive()
        await one.reap()
        assert parent.is_alive()
        await ended(watching)
        channel.close()


async def test_who_is_ready_goes_on_as_before_where_another_cannot(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has gone before it could get ready: the first is told to leave it, and the next reload is for all."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url="redis://127.0.0.1:1/0")
    edit(config, "[server]\n", "[server]\nworkers = 2\n")
    parent = parents.Workers(Source(config), load)
    told: list[tuple[int, str]] = []
    gone = {2}

    async def tell(one: Any, what: str, _: float, **more: object) -> dict[str, Any]:
        told.append((one.number, what))
        if one.number in gone:
            raise WorkerGone("it has ended")
        return {}

    monkeypatch.setattr(parents._Worker, "told", tell)
    for one in parent._workers:
        one.serves = True
    before = parent.config
    with pytest.raises(ConfigError, match="worker 2: it has ended"):
        await parent.reload()
    assert told == [(1, "prepare"), (2, "prepare"), (1, "leave"), (2, "leave")]
    assert parent.config is before
    told.clear()
    gone.clear()
    await parent.reload()
    assert told == [(1, "prepare"), (2, "prepare"), (1, "take_up"), (2, "take_up")]
    assert parent.config is not before


async def test_a_reload_that_was_refused_opens_the_log_anew(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As logrotate has it, which moves the file away first."""
    monkeypatch.setattr(workers, "settle", lambda: None)
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    edit(config, "[log]\n", '[log]\npath = "ra.log"\n')
    worker = Worker()
    ((shared,),) = await bound("127.0.0.1", 0, "server", 1)
    with shared:
        numbers = {"server": [[shared.dup().detach()]]}
        await worker.reply(asked(config, "start", version=__version__, sockets=numbers))
    path = tmp_path / "ra.log"
    path.rename(tmp_path / "ra.log.1")
    await worker.reply({"what": "leave"})
    assert path.exists()
    await worker.reply({"what": "stop"})


async def test_it_is_told_to_end_while_it_gets_ready(
    serving: tuple[Worker, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked hears that it did not go over; it is no bug."""
    worker, config = serving
    reached, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Any) -> None:
        reached.set()
        await goes_on.wait()

    monkeypatch.setattr("ra_gateway.app.gateway.Wiring.start", slow)  # a CRL that takes its time
    preparing = asyncio.create_task(worker.reply(asked(config, "prepare")))
    await reached.wait()
    assert await worker.reply({"what": "leave"}) == {}
    (problem,) = (await preparing)["refused"]
    assert problem["what"] == "do not all go over"


async def test_no_descriptor_is_left_to_begin_one_with(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as what it is, and tried again, as where no process can be had."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url="redis://127.0.0.1:1/0")
    edit(config, "[server]\n", "[server]\nworkers = 2\n")
    parent = parents.Workers(Source(config), load)
    for name in ("socket.socketpair", "subprocess.Popen"):
        with monkeypatch.context() as patch:
            patch.setattr(name, failing)
            with pytest.raises(ConfigError, match="no process can be begun: Too many open files"):
                await parent._workers[0].begin(parent._kept, {})


def failing(*_: object, **__: object) -> Any:
    raise OSError(errno.EMFILE, "Too many open files")
