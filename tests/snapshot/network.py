"""Networks that fail, for tests: a proxy that cuts connections, and servers that give one answer, or none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class CuttingProxy:
    """Passes bytes between its `endpoint` and a port of this machine, until `limit` of them went one way in all.

    Then it calls `at_limit`, cuts every connection, and closes new ones, until it is given another limit. A connection
    by which more than `held_above` bytes go up waits, while `go_on` is cleared.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._turn = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self.limits: dict[str, int] = {}
        """By direction, "up" or "down"; a direction without one is not limited."""
        self.at_limit: Callable[[], object] = lambda: None
        self.was_cut = False
        self.held_above: int = 1 << 20
        self.go_on = threading.Event()
        self.go_on.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, **limits: int) -> None:
        self.was_cut, self.limits = False, limits

    def heal(self, port: int | None = None) -> None:
        """Pass everything, to another port if the server has got one."""
        self._port, self.limits = port or self._port, {}

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    near.close()
                    continue
                self._sockets |= {near, far}
                for source, sink, way in ((near, far, "up"), (far, near, "down")):
                    threading.Thread(target=self._pass, args=(source, sink, way), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        passed = 0
        with suppress(OSError):
            while (data := source.recv(1 << 16)) and self._may_pass(way, len(data)):
                passed += len(data)
                if way == "up" and passed > self.held_above:
                    self.go_on.wait()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _may_pass(self, way: str, size: int) -> bool:
        with self._turn:
            if way not in self.limits:
                return True
            self.limits[way] -= size
            if self.limits[way] >= 0:
                return True
            if not self.was_cut:
                self.was_cut = True
                self.at_limit()
        self._cut()
        return False

    def _cut(self) -> None:
        for end in list(self._sockets):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._sockets.clear()


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """The endpoint of a server that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"e"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def silent() -> Iterator[str]:
    """The endpoint of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def nobody() -> Iterator[str]:
    """An endpoint where nobody listens, and nobody else may."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
