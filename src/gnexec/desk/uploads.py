"""What a worker uploaded: grants on blobs, and the manifest that names all that an attempt left."""

from __future__ import annotations

from typing import Final

from gnexec.core.spec import STDOUT, Manifest, check_path, decode_manifest, encode_manifest
from gnexec.desk.office import Office
from gnexec.errors import Refused
from gnexec.store.contract import Grant

MAX_MANIFEST_BYTES: Final = 4 << 20
"""Largest manifest: it is read into memory. A thousand files with the longest of names fit."""


async def keep_blob(office: Office, principal: str, digest: str) -> None:
    """Record that a principal uploaded a blob: durable before it is told so."""
    await office.desk.keep([Grant(principal, digest)])


async def find_manifest(office: Office, principal: str, outs: str) -> Manifest:
    """Return a manifest as `uploaded_manifest`, from the event loop."""
    held = office.manifests.get((principal, outs))
    if held is not None:
        return held
    return await office.aside(lambda: uploaded_manifest(office, principal, outs))


def uploaded_manifest(office: Office, principal: str, outs: str) -> Manifest:
    """Return a manifest of which every blob, itself included, was uploaded by `principal`.

    Raises:
        Refused: invalid; it, or a blob that it names, was not uploaded; a size is wrong; or it is not in canonical
            form, so that another reader might find something else in it.
    """
    held = office.manifests.get((principal, outs))
    if held is not None:
        return held
    if not office.store.granted(principal, [outs]):
        raise Refused(
            "invalid", "The manifest was not uploaded.", field="outs", mend=f"PUT it to /v1/blobs/{outs} first."
        )
    manifest = _read(office, outs)
    files = [*manifest.outputs.values(), manifest.stdout, manifest.stderr]
    wanted = sorted({stored.sha256 for stored in files})
    missing = set(wanted) - office.store.granted(principal, wanted)
    if missing:
        raise Refused(
            "invalid",
            f"The manifest names a blob {min(missing)} that was not uploaded.",
            field="outs",
            mend="Upload it.",
        )
    for stored in files:
        if office.blobs.size(stored.sha256) != stored.size:
            raise Refused("invalid", f"Blob {stored.sha256} has another size than the manifest says.", field="outs")
    return office.manifests.put((principal, outs), manifest)


def _read(office: Office, outs: str) -> Manifest:
    if office.blobs.size(outs) > MAX_MANIFEST_BYTES:
        raise Refused("invalid", f"A manifest has at most {MAX_MANIFEST_BYTES} bytes.", field="outs")
    with office.blobs.open(outs) as file:
        data = file.read()
    manifest = decode_manifest(data)
    for path in manifest.outputs:
        check_path(path, "outs")
    if STDOUT in manifest.outputs or encode_manifest(manifest) != data:
        raise Refused(
            "invalid", "The manifest is not in canonical form (RFC 8785).", field="outs", mend="Write it anew."
        )
    return manifest
