"""Going over to another configuration while requests are answered: what every service of ours does for that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from ra_gateway.app.configuration_changes import changed_keys, config_digest
from ra_gateway.app.management import Management
from ra_gateway.config.service_tables import LogConfig
from ra_gateway.errors import ConfigError
from ra_gateway.events import Component, ConfigurationReloaded, EventSink, ReloadRefused
from ra_gateway.logs import LogOutput, reopen, use


class InFlight:
    """Counts the messages that are being answered: `with` it for each."""

    def __init__(self) -> None:
        self.count = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def __enter__(self) -> Self:
        self.count += 1
        self._quiet.clear()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.count -= 1
        if not self.count:
            self._quiet.set()

    async def end(self, seconds: float) -> None:
        """Wait until no message is being answered, at most that long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._quiet.wait()


class Reloads:
    """A service's reloads: one after the other, all of a configuration or nothing of it, and told either way.

    Args:
        by: Which service.
        management: Tells whoever asks for its status.
        sink: Takes what came of each.
        has_log: Whether the process's log is the service's.
    """

    def __init__(
        self, by: Component, management: Management, sink: EventSink, *, has_log: bool
    ) -> None:
        self._by, self._management, self._sink = by, management, sink
        self._has_log = has_log
        self._log: LogOutput | None = None
        self._reloading = asyncio.Lock()
        self._is_over = False
        self._retiring: set[asyncio.Task[None]] = set()

    def open_log(self, config: LogConfig) -> None:
        """Open what the log goes to from the end of this reload on, if it is the service's.

        Raises:
            ConfigError: It cannot be written to.
        """
        if self._has_log:
            self._log = LogOutput(config.format, config.level, config.path)

    async def one(self, go_over: Callable[[], Awaitable[tuple[BaseModel, BaseModel]]]) -> None:
        """Reload.

        Args:
            go_over: Takes up a configuration, and returns the one before and itself; when it raises, it has changed
                nothing.

        Raises:
            ConfigError: What `go_over` raised; or the service is about to end.
        """
        async with self._reloading:
            try:
                if self._is_over:
                    raise ConfigError.of("process", "is about to end", "Start it again")
                before, config = await go_over()
            except ConfigError as error:
                self._refused(*map(str, error.problems))
                raise
            except Exception as error:
                self._refused(f"a bug, {type(error).__name__}: the log has more of it")
                raise
            if self._log is not None:
                use(self._log)
                self._log = None
            digest = config_digest(config)
            self._management.reloaded(digest)
            changed = tuple(changed_keys(before.model_dump(), config.model_dump()))
            self._sink(ConfigurationReloaded(self._by, digest, changed))

    def _refused(self, *problems: str) -> None:
        """Tell that a reload was refused, in the log file of before, which somebody may have moved away."""
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._has_log:
            with suppress(ConfigError):  # then the one that was moved is written on
                reopen()
        self._management.reloaded(self._management.configuration, problems)
        self._sink(ReloadRefused(self._by, problems))

    def retire(self, stopping: Coroutine[Any, Any, None]) -> None:
        """Stop what was replaced once its last messages are answered, in the background."""
        task = asyncio.create_task(stopping)
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def end(self) -> None:
        """Wait for a reload that has begun; from now on every other is refused."""
        self._is_over = True
        async with self._reloading:
            pass

    async def retired(self) -> None:
        """Wait until all that was replaced has stopped (`retire`)."""
        await asyncio.gather(*self._retiring, return_exceptions=True)
