"""Servers in threads of this process."""

from __future__ import annotations

import socketserver
import threading
from http.server import ThreadingHTTPServer


class Quiet:
    """A server that says nothing of connections that break, and waits for none."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """It is no news."""


class Server(Quiet, ThreadingHTTPServer):
    """On a port of 127.0.0.1."""


class UnixServer(Quiet, socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """On a unix socket."""


class Served:
    """What a server answers for, from now on until it is closed."""

    def __init__(self, server: socketserver.BaseServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
