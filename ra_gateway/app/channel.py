"""What a parent and one of its workers say to each other: the parent asks, the worker answers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any, Final, Self

_LENGTH_OCTETS: Final = 4

_MOST_OCTETS: Final = 64 * 1024 * 1024
"""Of one message: a configuration of 4 MB as JSON, or the metrics of a worker, is far below."""

Message = dict[str, Any]


class WorkerGone(Exception):
    """The worker has ended, or does not answer."""


class Channel:
    """One end of a connected pair of sockets: JSON objects, each with its length in four octets before it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """Return the channel over a socket, which it owns."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    async def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            OSError: The other end has gone.
        """
        octets = json.dumps(message, default=str).encode()
        self._writer.write(len(octets).to_bytes(_LENGTH_OCTETS, "big") + octets)
        await self._writer.drain()

    async def receive(self) -> Message | None:
        """Return the next message; None where the other end has gone."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_OCTETS), "big")
            if length > _MOST_OCTETS:
                return None
            message: Message = json.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            return None
        return message

    def close(self) -> None:
        """Close this end."""
        self._writer.close()


class Asking:
    """The parent's end: questions, each of which gets its answer."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._is_over = False

    async def run(self) -> None:
        """Take answers until the worker has gone."""
        try:
            while (message := await self._channel.receive()) is not None:
                answer = self._asked.pop(message["number"], None)
                if answer is not None and not answer.done():
                    answer.set_result(message)
        finally:
            self._is_over = True
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(WorkerGone("it has ended"))
            self._channel.close()

    async def ask(self, what: str, seconds: float, **more: Any) -> Message:
        """Ask the worker, and return its answer.

        Args:
            seconds: Time for that.

        Raises:
            WorkerGone: It has ended, or has not answered in time.
        """
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                if self._is_over:
                    raise WorkerGone("it has ended")
                await self._channel.send({"number": number, "what": what, **more})
                found: Message = await answer
        except TimeoutError:
            raise WorkerGone(f"it has not answered within {seconds:g} s") from None
        except OSError as error:
            raise WorkerGone("it has ended") from error
        finally:
            self._asked.pop(number, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # has been told
        return found


async def answer(channel: Channel, reply: Callable[[Message], Awaitable[Message]]) -> None:
    """Answer what the parent asks, several questions at a time, until it has gone.

    Args:
        reply: Returns the answer to a question.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def one(question: Message) -> None:
        found = await reply(question)
        with suppress(OSError):  # nobody asks any more
            await channel.send({**found, "number": question["number"]})

    while (question := await channel.receive()) is not None:
        task = asyncio.create_task(one(question))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
