"""A job's specification, its digest, and the digests by which results are compared.

The specification says what is run: a command, its inputs by digest, the outputs it declares. It is content: the log
names it by a salted digest only. The *job digest* is the job's identity: who asks for the same digest asks for the
same work.

Everything here is pure and shared: the server, workers, submitters and auditors compute the same digests with it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from gnexec.core.canonical import canonical
from gnexec.errors import Refused
from gnexec.ids import MAX_SAFE_INT, check_digest, sha256_hex

STDOUT: Final = "stdout"
"""Reserved name among the outputs: the captured standard output."""
MAX_WORDS_BYTES: Final = 64 * 1024
MAX_FILES: Final = 1000
MAX_PATH_BYTES: Final = 1024
MAX_NAME_BYTES: Final = 255
"""NAME_MAX of Linux."""
MAX_DEPTH: Final = 32
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_CLASS: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What is to be run.

    Attributes:
        argv: program and arguments, run without a shell; or None.
        cmd: a command line for `sh -c`; or None. Exactly one of the two is given.
        inputs: SHA-256 of a blob by the relative path at which the job finds it.
        outputs: relative paths that the job must write; "stdout" stands for its captured output. Their bytes are
            what is compared; a job that declares none is compared by its stdout.
        env: environment variables.
        seed: the job's seed, handed on as GNEXEC_SEED; part of its identity.
        numeric_class: machines whose results may be compared byte for byte; "any" where all may.
    """

    argv: tuple[str, ...] | None = None
    cmd: str | None = None
    inputs: dict[str, str] = {}
    outputs: tuple[str, ...] = ()
    env: dict[str, str] = {}
    seed: int | None = None
    numeric_class: str = "any"

    @property
    def command_line(self) -> str:
        """The command as one line for a shell."""
        return self.cmd if self.cmd is not None else shlex.join(self.argv or ())

    @property
    def voted(self) -> tuple[str, ...]:
        """The outputs that are compared."""
        return self.outputs or (STDOUT,)


class NamedSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A specification with the name its submitter gave it: what is kept as content."""

    name: str
    spec: Spec


class Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A blob, as a manifest names it."""

    sha256: str
    size: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that an attempt left behind; a blob itself, named by the claim `outs`.

    Attributes:
        outputs: the declared outputs that were there, by path; never "stdout".
        stderr: standard error, possibly cut. stdout: standard output.
    """

    outputs: dict[str, Stored]
    stderr: Stored
    stdout: Stored


def check_spec(spec: Spec) -> Spec:
    """Return `spec` if it can be run as it is.

    Raises:
        Refused: invalid; names the field, what is wrong and the mend.
    """
    if (spec.argv is None) == (spec.cmd is None):
        raise Refused("invalid", "Exactly one of argv and cmd is needed.", field="argv", mend="Give one of them.")
    words = spec.argv if spec.argv is not None else (spec.cmd or "",)
    if not words or not words[0]:
        raise Refused("invalid", "The command is empty.", field="argv" if spec.argv is not None else "cmd")
    _check_text("argv" if spec.argv is not None else "cmd", words)
    if spec.env:
        for name, value in spec.env.items():
            if not _ENV_NAME.fullmatch(name):
                raise Refused("invalid", f"{name[:80]!r} is not a name for a variable.", field="env")
            _check_text(f"env.{name}", (value,))
        _check_text("env", [*spec.env, *spec.env.values()])
    if not _CLASS.fullmatch(spec.numeric_class):
        raise Refused("invalid", "A class is a short lower-case word.", field="numeric_class")
    if spec.seed is not None and not 0 <= spec.seed <= MAX_SAFE_INT:
        raise Refused("invalid", f"A seed is a number from 0 to {MAX_SAFE_INT}.", field="seed")
    if spec.inputs:
        _check_paths("inputs", spec.inputs)
    if spec.outputs:
        _check_paths("outputs", [path for path in spec.outputs if path != STDOUT])
    if len(set(spec.outputs)) != len(spec.outputs):
        raise Refused("invalid", "An output is named twice.", field="outputs")
    if STDOUT in spec.inputs:
        raise Refused("invalid", "The name stdout is reserved.", field="inputs", mend="Give the input another path.")
    for path, digest in spec.inputs.items():
        check_digest(digest, f"inputs.{path}")
    return spec


def job_digest(spec: Spec) -> str:
    """Return the identity of a job: SHA-256 (hexadecimal) of its canonical description.

    The description is RFC 8785 JSON of {program definition digest, arguments, input digests, seed, numeric class}; of
    a raw command, the definition is what surrounds it (outputs, environment). Needs, priority and redundancy are not
    in it.
    """
    return _hash(
        {
            "arguments": {"argv": list(spec.argv)} if spec.argv is not None else {"cmd": spec.cmd},
            "class": spec.numeric_class,
            "inputs": spec.inputs,
            "program": definition_digest(spec),
            "seed": spec.seed,
        }
    )


def definition_digest(spec: Spec) -> str:
    """Return the digest of the raw command's definition: its form, its outputs, its environment."""
    if not spec.env and not spec.outputs:
        return _BARE
    return _hash({"env": spec.env, "kind": "raw/1", "outputs": sorted(spec.outputs)})


def series_digest(spec: Spec) -> str:
    """Name the series of jobs that this one belongs to, for statistics: same definition, program and script.

    A second word counts where it is an input: then it is what an interpreter is to run, else an argument among others.
    """
    words = list(spec.argv[:2]) if spec.argv is not None else (spec.cmd or "").split()[:2]
    if len(words) > 1 and words[1] not in spec.inputs:
        words = words[:1]
    return _hash({"program": definition_digest(spec), "words": words})


def voted_digest(spec: Spec, exit_status: int, digests: Mapping[str, str]) -> str:
    """Return what is compared between results: SHA-256 (hexadecimal) over the declared outputs.

    Args:
        spec: says which outputs count.
        exit_status: 0; results of another exit status are not compared.
        digests: SHA-256 (hexadecimal) by output path, and of "stdout"; may hold more than is declared.

    Raises:
        Refused: invalid; a declared output is missing.
    """
    missing = [path for path in spec.voted if path not in digests]
    if missing:
        raise Refused(
            "invalid", f"The declared output {missing[0]!r} is missing.", field="outputs", mend="Send all of them."
        )
    return _hash({"exit": exit_status, "outputs": {path: digests[path] for path in spec.voted}})


def manifest_digests(manifest: Manifest) -> dict[str, str]:
    """Return SHA-256 by name for all that a manifest holds and that may be voted on."""
    return {path: stored.sha256 for path, stored in manifest.outputs.items()} | {STDOUT: manifest.stdout.sha256}


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest blob: canonical JSON (RFC 8785)."""
    return canonical(manifest)


def decode_manifest(data: bytes) -> Manifest:
    """Read a manifest blob.

    Raises:
        Refused: invalid; it is not a manifest.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise Refused("invalid", f"The blob is not a manifest: {err}", field="outs") from err
    for stored in [*manifest.outputs.values(), manifest.stdout, manifest.stderr]:
        check_digest(stored.sha256, "outs")
        if not 0 <= stored.size <= MAX_SAFE_INT:
            raise Refused("invalid", "A size is out of range.", field="outs")
    return manifest


def encode_named(named: NamedSpec) -> bytes:
    """Return canonical JSON (RFC 8785): the content that the log names."""
    return canonical(named)


def decode_named(data: bytes) -> NamedSpec:
    """Read what `encode_named` wrote."""
    return msgspec.json.decode(data, type=NamedSpec)


def check_path(path: str, field: str) -> str:
    """Return `path` if it is a plain relative path that stays where it is put.

    Raises:
        Refused: invalid; absolute, empty, with "..", or with characters that no file system likes.
    """
    parts = path.split("/")
    if (
        not path
        or not path.isprintable()  # neither control characters nor lone surrogates
        or len(path.encode(errors="surrogatepass")) > MAX_PATH_BYTES
        or len(parts) > MAX_DEPTH
        or any(part in ("", ".", "..") or len(part.encode(errors="surrogatepass")) > MAX_NAME_BYTES for part in parts)
        or (parts[0] == STDOUT and len(parts) > 1)
    ):
        raise Refused(
            "invalid",
            f"{path[:80]!r} is not a plain relative path.",
            field=field,
            mend='Name it like "results/out.txt", without "..", and not from the root.',
        )
    return path


def _check_paths(field: str, paths: Mapping[str, str] | Sequence[str]) -> None:
    if len(paths) > MAX_FILES:
        raise Refused("invalid", f"{len(paths)} files are too many.", field=field, mend=f"Name at most {MAX_FILES}.")
    names = {check_path(path, field) for path in paths}
    for path in names:
        parent = path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in names:
                raise Refused("invalid", f"{parent!r} is a file and a folder at once.", field=field)


def _check_text(field: str, texts: Sequence[str]) -> None:
    joined = "".join(texts)
    if len(joined.encode(errors="surrogatepass")) > MAX_WORDS_BYTES:
        raise Refused("too_large", f"More than {MAX_WORDS_BYTES} bytes.", field=field, mend="Put data into an input.")
    if "\0" in joined or (not joined.isascii() and any(0xD800 <= ord(char) < 0xE000 for char in joined)):
        raise Refused("invalid", "A NUL or a lone surrogate cannot be passed on.", field=field)


def _hash(value: object) -> str:
    return sha256_hex(canonical(value))


_BARE: Final = _hash({"env": {}, "kind": "raw/1", "outputs": []})
"""Definition of a raw command with neither environment nor declared outputs, as most of them are."""
