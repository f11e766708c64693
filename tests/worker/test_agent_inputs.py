"""Inputs: only the bytes that the digest names reach a job, fetched once, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from gnexec.ids import sha256_hex
from gnexec.worker.inputs import Inputs, InputUnavailable
from gnexec.worker.link import Link


class _Shelf:
    """A server of blobs that may lie, and counts."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.away = 0
        self.url = ""

    def put(self, data: bytes) -> str:
        """Put honest bytes on the shelf and return their digest."""
        digest = sha256_hex(data)
        self.blobs[digest] = data
        return digest


@contextmanager
def _open_shelf() -> Iterator[_Shelf]:
    shelf = _Shelf()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            digest = self.path.rpartition("/")[2]
            shelf.asked.append(digest)
            data = shelf.blobs.get(digest, b"")
            status = 404 if digest not in shelf.blobs else 200
            if shelf.away:
                shelf.away, status, data = shelf.away - 1, 503, b""
            self.send_response(status)
            if status == 503:
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:  # noqa: ANN401 -- as http.server calls it
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    shelf.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield shelf
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def shelf() -> Iterator[_Shelf]:
    """A server of blobs."""
    with _open_shelf() as made:
        yield made


def _provide(
    shelf: _Shelf, tmp_path: Path, *jobs: dict[str, str], max_bytes: int = 10_000, most_bytes: int = 10_000
) -> list[Path]:
    """Provide the inputs of one job after the other; return their work directories."""

    async def provide() -> list[Path]:
        works = []
        async with Link(shelf.url) as link:
            inputs = Inputs(tmp_path / "cache", link, most_bytes=most_bytes)
            for number, job in enumerate(jobs):
                work = tmp_path / f"work{number}"
                work.mkdir()
                await inputs.provide(job, work, "token", max_bytes)
                works.append(work)
        return works

    return asyncio.run(provide())


def _cached(tmp_path: Path) -> set[str]:
    return {path.parent.name + path.name for path in (tmp_path / "cache").glob("??/*")}


def test_inputs_are_put_in_their_places_and_fetched_once(shelf: _Shelf, tmp_path: Path) -> None:
    """Two jobs, one input under two names: one request, three copies, each the job's own."""
    digest = shelf.put(b"data")
    first, second = _provide(shelf, tmp_path, {"a": digest, "b/c": digest}, {"a": digest})
    assert [(first / "a").read_bytes(), (first / "b/c").read_bytes(), (second / "a").read_bytes()] == [b"data"] * 3
    assert shelf.asked == [digest]
    (first / "a").write_bytes(b"changed by the job")
    assert (second / "a").read_bytes() == b"data"


def test_input_with_other_bytes_is_refused_and_not_kept(shelf: _Shelf, tmp_path: Path) -> None:
    """A server that slips another file in is found out; neither the job nor the next one sees it."""
    digest = sha256_hex(b"genuine")
    shelf.blobs[digest] = b"forged!"
    with pytest.raises(InputUnavailable, match="SHA-256"):
        _provide(shelf, tmp_path, {"in": digest})
    assert not (tmp_path / "work0" / "in").exists()
    assert _cached(tmp_path) == set()


def test_input_that_ends_early_is_refused(shelf: _Shelf, tmp_path: Path) -> None:
    """A file that is cut short has another digest."""
    digest = sha256_hex(b"whole file")
    shelf.blobs[digest] = b"whole"
    with pytest.raises(InputUnavailable, match="SHA-256"):
        _provide(shelf, tmp_path, {"in": digest})


def test_input_that_is_not_there_is_refused_at_once(shelf: _Shelf, tmp_path: Path) -> None:
    """A 404 is an answer: it is not asked again."""
    with pytest.raises(InputUnavailable):
        _provide(shelf, tmp_path, {"in": "ab" * 32})
    assert len(shelf.asked) == 1


def test_server_that_is_away_is_asked_again(shelf: _Shelf, tmp_path: Path) -> None:
    """A 503 is no answer."""
    digest = shelf.put(b"later")
    shelf.away = 2
    (work,) = _provide(shelf, tmp_path, {"in": digest})
    assert (work / "in").read_bytes() == b"later"
    assert len(shelf.asked) == 3


@pytest.mark.parametrize("sizes", [[101], [60, 41]])
def test_inputs_beyond_the_disk_limit_are_refused(shelf: _Shelf, tmp_path: Path, sizes: list[int]) -> None:
    """One input, or all of them together, larger than the job's disk: the download is broken off."""
    job = {str(n): shelf.put(bytes([n]) * size) for n, size in enumerate(sizes)}
    with pytest.raises(InputUnavailable, match="larger than the disk space"):
        _provide(shelf, tmp_path, job, max_bytes=100)


def test_cached_input_counts_against_the_disk_limit(shelf: _Shelf, tmp_path: Path) -> None:
    """The cap is on what the job gets, not on what is downloaded."""
    digest = shelf.put(b"x" * 80)
    with pytest.raises(InputUnavailable, match="larger than the disk space"):
        _provide(shelf, tmp_path, {"a": digest}, {"a": digest, "b": digest}, max_bytes=100)


def test_least_recently_used_input_goes_first(shelf: _Shelf, tmp_path: Path) -> None:
    """Beyond its bound the cache forgets what was not used for longest."""
    old, used, new = (shelf.put(char * 40) for char in (b"o", b"u", b"n"))
    _provide(shelf, tmp_path, {"a": old}, {"a": used}, {"a": old}, {"a": used}, {"a": new}, most_bytes=100)
    assert _cached(tmp_path) == {used, new}


def test_input_larger_than_the_cache_reaches_its_job(shelf: _Shelf, tmp_path: Path) -> None:
    """The bound is on what is kept between jobs, not on what a job may have."""
    digest = shelf.put(b"x" * 500)
    (work,) = _provide(shelf, tmp_path, {"in": digest}, most_bytes=100)
    assert (work / "in").stat().st_size == 500
