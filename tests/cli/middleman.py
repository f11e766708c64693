"""Something between a client and a real server that fails as networks, proxies and impostors do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx2

Forward = Callable[[], httpx2.Response]
Deed = Callable[[BaseHTTPRequestHandler, Forward], None]
_NOT_PASSED_ON = frozenset({"connection", "content-length", "host", "transfer-encoding"})


class Middleman:
    """Passes requests on, but does to some what it was told.

    Attributes:
        url: its own address.
        seen: requests so far, as "METHOD path", without their query.
        ranges: the `Range` headers so far.
    """

    def __init__(self, upstream: str) -> None:
        """Listen on a free port."""
        self.seen: list[str] = []
        self.ranges: list[str] = []
        self._upstream = upstream
        self._script: list[tuple[str, Deed]] = []
        middleman = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                middleman._serve(self)

            do_GET = do_HEAD = do_PUT = do_POST = handle_any  # noqa: N815 -- as http.server calls them

            def log_message(self, *_: Any) -> None:  # noqa: ANN401 -- as http.server calls it
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def once(self, what: str, *deeds: Deed) -> None:
        """Do these to the next requests whose "METHOD path" ends like this, one each."""
        self._script.extend((what, deed) for deed in deeds)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        request = f"{handler.command} {handler.path.partition('?')[0]}"
        self.seen.append(request)
        self.ranges.extend(handler.headers.get_all("Range", []))
        body = _body(handler)
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in _NOT_PASSED_ON}

        def forward() -> httpx2.Response:
            return httpx2.request(
                handler.command, self._upstream + handler.path, content=body, headers=headers, timeout=60
            )

        found = next(
            (entry for entry in self._script if _fits(request, entry[0])),
            None,
        )
        if found is not None:
            self._script.remove(found)
        with suppress(OSError):
            (found[1] if found else change())(handler, forward)


def lose(handler: BaseHTTPRequestHandler, forward: Forward) -> None:
    """The server gets the request, the client no answer."""
    forward()
    handler.close_connection = True


def drop(handler: BaseHTTPRequestHandler, _: Forward) -> None:
    """The server gets nothing, the client no answer."""
    handler.close_connection = True


def answer(status: int, body: bytes = b"", **headers: str) -> Deed:
    """The server gets nothing, the client this answer; in names of headers, _ stands for a hyphen."""

    def deed(handler: BaseHTTPRequestHandler, _: Forward) -> None:
        _send(handler, status, {name.replace("_", "-"): value for name, value in headers.items()}, body, len(body))

    return deed


def cut(after: int) -> Deed:
    """The connection breaks after so many bytes of the answer's body."""

    def deed(handler: BaseHTTPRequestHandler, forward: Forward) -> None:
        reply = forward()
        _send(handler, reply.status_code, reply.headers, reply.content[:after], len(reply.content))
        handler.close_connection = True

    return deed


def change(old: bytes = b"", new: bytes = b"") -> Deed:
    """The answer's body has other bytes."""

    def deed(handler: BaseHTTPRequestHandler, forward: Forward) -> None:
        reply = forward()
        body = reply.content.replace(old, new) if old else reply.content
        length = int(reply.headers.get("Content-Length", "0")) if handler.command == "HEAD" else len(body)
        _send(handler, reply.status_code, reply.headers, body, length)

    return deed


@contextmanager
def middleman(upstream: str) -> Iterator[Middleman]:
    """Have a middleman before a server."""
    made = Middleman(upstream)
    try:
        yield made
    finally:
        made.close()


def _fits(request: str, wanted: str) -> bool:
    method, _, path = request.partition(" ")
    wanted_method, _, end = wanted.partition(" ")
    return method == wanted_method and path.endswith(end)


def _send(handler: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], body: bytes, length: int) -> None:
    handler.send_response_only(status)
    for name, value in headers.items():
        if name.lower() not in _NOT_PASSED_ON:
            handler.send_header(name, value)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)
        handler.wfile.flush()


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    data = bytearray()
    while size := int(handler.rfile.readline(), 16):
        data += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return bytes(data)
