"""A TCP proxy that holds every request back, as a distant object store does; a process of its own.

``python tests/helpers/slow_link.py PORT TARGET_PORT SECONDS LOG`` writes a line into LOG for each request.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path


async def forward(
    port: int, delay: float, log: Path, client: asyncio.StreamReader, answers: asyncio.StreamWriter
) -> None:
    """One connection: what follows an answer is a new request."""
    answered = asyncio.Event()
    answered.set()
    with suppress(ConnectionError):
        server, requests = await asyncio.open_connection("127.0.0.1", port)
        back = asyncio.create_task(carry_back(server, answers, answered))
        while part := await client.read(1 << 20):
            if answered.is_set():
                answered.clear()
                with log.open("ab") as file:
                    file.write(part.partition(b"\r\n")[0] + b"\n")
                await asyncio.sleep(delay)
            requests.write(part)
            await requests.drain()
        requests.close()
        await back
    answers.close()


async def carry_back(
    server: asyncio.StreamReader, answers: asyncio.StreamWriter, answered: asyncio.Event
) -> None:
    with suppress(ConnectionError):
        while part := await server.read(1 << 20):
            answered.set()
            answers.write(part)
            await answers.drain()
    answers.close()


async def main(port: int, target: int, delay: float, log: Path) -> None:
    server = await asyncio.start_server(partial(forward, target, delay, log), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])))
