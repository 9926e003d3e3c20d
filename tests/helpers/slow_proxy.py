"""A proxy before an object store that makes it as slow, and as moody, as one in another building.

    python tests/helpers/slow_proxy.py PORT TARGET_PORT SECONDS FAIL_EVERY

Every request waits for SECONDS; every FAIL_EVERY-th (0: none) is answered with status 503. ``GET /proxy``
returns the number of requests by method, of failures and of connections since the last one, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class SlowProxy:
    """The state of the proxy; see the module."""

    def __init__(self, target_port: int, seconds: float, fail_every: int) -> None:
        self.target_port, self.seconds, self.fail_every = target_port, seconds, fail_every
        self.counts: Counter[str] = Counter()
        self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, which it may keep for many requests."""
        self.counts["connections"] += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(content_length(head))
                writer.write(await self.respond(head, body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has enough
        finally:
            writer.close()

    async def respond(self, head: bytes, body: bytes) -> bytes:
        """The response to a request."""
        method, path, _ = head.split(b" ", 2)
        if path == b"/proxy":
            content, self.counts = json.dumps(self.counts).encode(), Counter()
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content)
        self.requests += 1
        fails = self.fail_every and self.requests % self.fail_every == 0
        self.counts[method.decode()] += 1
        await asyncio.sleep(self.seconds)
        if fails:
            self.counts["failures"] += 1
            content = b"" if method == b"HEAD" else SLOW_DOWN
            status = b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n" % len(content)
            return status + content
        server, sender = await asyncio.open_connection("127.0.0.1", self.target_port)
        sender.write(without_connection(head) + body)
        response = await server.read()
        sender.close()
        head, _, content = response.partition(b"\r\n\r\n")
        return without_connection(head + b"\r\n\r\n", close=False) + content


def content_length(head: bytes) -> int:
    """Of a request; 0 where it says nothing."""
    for line in head.lower().splitlines():
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def without_connection(head: bytes, close: bool = True) -> bytes:
    """The head without its own word on what becomes of the connection."""
    lines = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close" if close else b"Connection: keep-alive", b"", b""])


async def main(port: int, target_port: int, seconds: float, fail_every: int) -> None:
    proxy = SlowProxy(target_port, seconds, fail_every)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port, limit=2**20)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
