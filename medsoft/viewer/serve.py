"""Serves the viewer to this machine alone, until it is stopped."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import webbrowser

import uvicorn
from starlette.types import ASGIApp

from medsoft.errors import InputError

HOST = "127.0.0.1"


def listen(port: int | None) -> socket.socket:
    """A socket on this machine's own address.

    Args:
        port: its number; None for any that is free.

    Raises:
        InputError: it is taken, or not for us.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port or 0))
        found.listen()  # who comes before the server runs waits for it
    except OSError as error:
        found.close()
        raise InputError(
            f"--port {port}: {error.strerror}; name another one, or leave --port out and any free one is taken"
        ) from None
    return found


def new_token() -> str:
    """A secret for the address; 32 characters."""
    return secrets.token_urlsafe(24)


def can_open_browser() -> bool:
    """Whether there is a screen: without one, only a browser of the terminal would open, and take it over."""
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


class Server(uvicorn.Server):
    """Answers on a socket, and says its address as soon as it does."""

    address = ""
    open_browser = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.address, flush=True)
            if self.open_browser and can_open_browser():
                webbrowser.open(self.address)


def make_server(app: ASGIApp, bound: socket.socket, token: str, open_browser: bool) -> Server:
    """A server that ``serve`` runs.

    Args:
        app: the application.
        bound: of ``listen``.
        token: of the application, for the address.
        open_browser: whether the address is opened, where there is a screen.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=2
    )
    server = Server(config)
    server.address = f"http://{HOST}:{bound.getsockname()[1]}/?token={token}"
    server.open_browser = open_browser
    return server


def serve(server: Server, bound: socket.socket) -> None:
    """Answer until Ctrl-C, or until the server should exit."""
    with bound:
        server.run(sockets=[bound])
