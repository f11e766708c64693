"""A real nginx for tests, with the recipe of `deploy/nginx.conf`: its paths, ports and names are replaced, no more."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.docs.console import ROOT
from tests.requirements import require
from tests.worker.agents import until

RECIPE: Final = ROOT / "deploy" / "nginx.conf"
FRAME: Final = """\
{user}
daemon off;
pid {folder}/pid;
error_log {folder}/error.log info;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/gnexec.conf;
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx.

    Attributes:
        url: where it serves, with TLS. plain: without. certificate: to be trusted. folder: has its logs.
    """

    url: str
    plain: str
    certificate: Path
    folder: Path

    @property
    def context(self) -> ssl.SSLContext:
        """Trusts the certificate, and no other."""
        return ssl.create_default_context(cafile=str(self.certificate))

    @property
    def requests(self) -> str:
        """The log of requests."""
        return (self.folder / "access.log").read_text()


@contextmanager
def nginx(folder: Path, upstream: str) -> Iterator[Nginx]:
    """Run nginx in front of a server.

    Args:
        folder: empty, for its files.
        upstream: the server's address, http://HOST:PORT.
    """
    program = require("nginx", "nginx-light")
    certificate, key = _certificate(folder)
    tls, plain = _free_ports()
    recipe = RECIPE.read_text()
    for said, real in (
        ("127.0.0.1:8000", upstream.removeprefix("http://")),
        ("listen 443 ssl", f"listen {tls} ssl"),
        ("listen 80", f"listen {plain}"),
        ("https://$host$request_uri", f"https://$host:{tls}$request_uri"),
        ("gnexec.example.org", "localhost 127.0.0.1"),
        ("/etc/ssl/gnexec/fullchain.pem", str(certificate)),
        ("/etc/ssl/gnexec/privkey.pem", str(key)),
        ("/var/log/nginx/gnexec.log", str(folder / "access.log")),
    ):
        assert said in recipe, said
        recipe = recipe.replace(said, real)
    (folder / "gnexec.conf").write_text(recipe)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(FRAME.format(folder=folder, user=user))
    command = [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stderr
    assert "warn" not in tested.stderr, tested.stderr
    running = subprocess.Popen(command)
    try:
        until(lambda: _listens(tls) or running.poll() is not None, "nginx", (folder / "error.log").read_text)
        yield Nginx(f"https://127.0.0.1:{tls}", f"http://127.0.0.1:{plain}", certificate, folder)
    finally:
        running.terminate()
        running.wait(30)


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for this machine, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "fullchain.pem", folder / "privkey.pem"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, private


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return int(one.getsockname()[1]), int(other.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
