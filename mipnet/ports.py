"""Ports of this machine: checks that one is free, requests to a server on one."""

from __future__ import annotations

import errno
import socket
import urllib.request
from typing import Any

from mipnet.errors import UserError


def require_free_port(host: str, port: int, flag: str = "--port") -> None:
    """Check that a server can listen on a port.

    Args:
        host: name or address to listen on.
        port: to listen on.
        flag: chooses another port.

    Raises:
        UserError: it cannot.
    """
    number = bind_error(host, port)
    if number is None:
        return
    if number == errno.EADDRINUSE:
        other = next((p for p in range(port + 1, port + 100) if bind_error(host, p) is None), port + 1)
        raise UserError(f"port {port} is in use by another program", f"choose another, e.g. {flag} {other}")
    if number == errno.EACCES:
        raise UserError(f"port {port} is reserved for the system", f"choose one above 1023 with {flag}")
    raise UserError(f"--host: {host} is not an address of this machine", "leave it out to use 127.0.0.1")


def bind_error(host: str, port: int) -> int | None:
    """The errno of a failed attempt to listen there; None if it works."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
            probe.bind(address)
    except OSError as error:
        return error.errno or 0
    return None


def open_local_url(request: str | urllib.request.Request) -> Any:
    """The response of a server on this machine; proxies of the environment are ignored."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10)
