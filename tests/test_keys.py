"""Key files: nobody else can read them, no command leaves them half done, and rotation refuses no token in flight."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from gnexec.errors import BadConfiguration, Refused
from gnexec.ids import b64url
from gnexec.keys import (
    ServerKeys,
    files,
    load,
    load_jwks,
    new_keys,
    publish,
    retire_log_keys,
    revoke_token_keys,
    rotate_log_key,
    rotate_token_key,
    worker_key,
)
from gnexec.tlog.note import open_note, parse_vkey
from gnexec.tlog.note import sign as sign_note
from gnexec.tlog.succession import check_endorsement
from gnexec.tokens import LONGEST_S, JobClaims, kid_of, public_jwk, read_job_token, sign

ORIGIN: Final = "gnexec.example/log"
NOW: Final = 1_700_000_000
P = ParamSpec("P")
R = TypeVar("R")


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """Where private keys go; not made yet."""
    return tmp_path / "data" / "keys"


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """Where public keys go; not made yet."""
    return tmp_path / "public"


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def everything(*folders: Path) -> dict[Path, bytes]:
    """Return all files in some folders, but for the empty lock."""
    return {p: p.read_bytes() for folder in folders if folder.exists() for p in folder.iterdir() if p.name != "lock"}


def job_token(key: Ed25519PrivateKey, *, life_s: int = 60) -> str:
    """Make a job token in flight."""
    claims = JobClaims.of(
        [(7, 1)], origin=ORIGIN, jti=b64url(bytes(16)), iat=NOW, exp=NOW + life_s, dig="5e" * 32, jkt=None
    )
    return sign(claims, key)


# Made and loaded


def test_new_keys_can_be_read_by_nobody_else(private: Path, public: Path) -> None:
    """The directory is 0700, each file in it 0600, whatever the umask; what is public can be read by all."""
    old = os.umask(0o000)
    try:
        new_keys(private, public, ORIGIN)
    finally:
        os.umask(old)
    assert mode(private) == 0o700
    assert {mode(path) for path in private.iterdir()} == {0o600}
    assert {path.name: mode(path) for path in public.iterdir()} == {"log.vkey": 0o644, "jwks.json": 0o644}


def test_private_file_is_readable_by_nobody_else_at_any_moment(
    private: Path, public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at whenever something is forced to disk: no private file has ever had a wider mode."""
    seen: list[str] = []
    fsync = os.fsync

    def look(fd: int) -> None:
        for path in [*private.glob("*"), *private.glob(".*"), *tmp_path.glob("*.pem"), *tmp_path.glob(".*")]:
            if path.is_file():
                seen.append(path.name)
                assert mode(path) & 0o077 == 0
        fsync(fd)

    opened: list[int] = []
    open_ = os.open

    def note(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            opened.append(mode)
        return open_(path, flags, mode)

    monkeypatch.setattr(os, "fsync", look)
    monkeypatch.setattr(os, "open", note)
    old = os.umask(0o000)
    try:
        new_keys(private, public, ORIGIN)
        worker_key(tmp_path / "worker.pem")
    finally:
        os.umask(old)
    assert len(seen) > 5
    assert set(opened) == {0o600}


def test_loaded_keys_are_those_that_were_made(private: Path, public: Path) -> None:
    """Made, loaded, published: three views of the same keys."""
    made, found = new_keys(private, public, ORIGIN), load(private)
    assert (found.origin, found.pseudonym_secret) == (ORIGIN, made.pseudonym_secret)
    assert len(found.pseudonym_secret) == 32
    assert found.token_public == made.token_public == load_jwks(public / "jwks.json")
    assert list(found.token_public)[1] == kid_of(found.token_current.public_key())
    assert kid_of(found.log_key.public_key()) not in found.token_public


def test_published_log_key_verifies_what_the_log_signs(private: Path, public: Path) -> None:
    """`log.vkey` is one line in the form of C2SP signed-note, under the log's name."""
    keys = new_keys(private, public, ORIGIN)
    verifier = parse_vkey((public / "log.vkey").read_text().removesuffix("\n"))
    assert verifier == keys.log_verifier
    assert verifier.name == ORIGIN
    assert open_note(sign_note("a checkpoint\n", ORIGIN, keys.log_key), [verifier]).verified


def test_two_servers_never_share_a_key(tmp_path: Path) -> None:
    """Every key and secret is drawn anew."""
    one, two = (new_keys(tmp_path / f"{i}", tmp_path / f"{i}-public", ORIGIN) for i in range(2))
    assert not set(one.token_public) & set(two.token_public)
    assert one.pseudonym_secret != two.pseudonym_secret
    assert one.log_verifier != two.log_verifier


def test_keys_never_show_in_their_repr(private: Path, public: Path) -> None:
    """A log line that prints the keys gives nothing away."""
    keys = new_keys(private, public, ORIGIN)
    assert repr(keys.pseudonym_secret) not in repr(keys)
    assert "PrivateKey" not in repr(keys)


def test_nothing_private_is_published(private: Path, public: Path) -> None:
    """No private scalar and no secret, in any encoding that we write, stands in a public file."""
    keys = new_keys(private, public, ORIGIN)
    published = b"".join(everything(public).values())
    for raw in (keys.token_current.private_bytes_raw(), keys.log_key.private_bytes_raw(), keys.pseudonym_secret):
        assert not any(form in published for form in (raw, raw.hex().encode(), b64url(raw).encode()))
    assert b"PRIVATE" not in published
    assert b'"d"' not in published


@pytest.mark.parametrize("name", ["", "two words", "with+plus", "new\nline", "tab\there", "\x7f", "x" * 129])
def test_name_that_cannot_be_a_logs_is_refused_before_anything_is_made(private: Path, public: Path, name: str) -> None:
    """The name goes into notes and tokens, whose forms it must not break."""
    with pytest.raises(BadConfiguration, match="cannot be the log's name"):
        new_keys(private, public, name)
    assert not private.exists()
    assert not public.exists()


@pytest.mark.parametrize("present", ["ring.json", "log.pem", "pseudonym.key", "token-x.pem", "log.vkey", "jwks.json"])
def test_new_keys_never_overwrite(private: Path, public: Path, present: str) -> None:
    """Any key that is there already, private or public, stops the making of others, and stays."""
    folder = public if present in {"log.vkey", "jwks.json"} else private
    for path in (private, public):
        path.mkdir(parents=True, mode=0o700)
    (folder / present).write_bytes(b"precious")
    with pytest.raises(BadConfiguration, match="never overwritten"):
        new_keys(private, public, ORIGIN)
    assert everything(private, public) == {folder / present: b"precious"}


def test_new_keys_twice_leave_the_first_in_place(private: Path, public: Path) -> None:
    """The second command fails and changes nothing."""
    new_keys(private, public, ORIGIN)
    before = everything(private, public)
    with pytest.raises(BadConfiguration, match="never overwritten"):
        new_keys(private, public, "another.example/log")
    assert everything(private, public) == before


def test_new_keys_go_beside_a_readme(private: Path, public: Path) -> None:
    """A public directory that holds other things, as that of the repository does, is used as it is."""
    public.mkdir()
    (public / "README.md").write_text("Public keys")
    new_keys(private, public, ORIGIN)
    assert (public / "README.md").read_text() == "Public keys"


# Refused


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644, 0o620, 0o601])
@pytest.mark.parametrize("name", ["log.pem", "pseudonym.key", "ring.json", "token-*.pem"])
def test_private_file_that_others_may_use_is_refused(private: Path, public: Path, name: str, bits: int) -> None:
    """The message says what to type."""
    new_keys(private, public, ORIGIN)
    for path in private.glob(name):
        path.chmod(bits)
    with pytest.raises(BadConfiguration, match="chmod 600"):
        load(private)


@pytest.mark.parametrize("bits", [0o770, 0o707, 0o777])
def test_directory_in_which_others_may_replace_keys_is_refused(private: Path, public: Path, bits: int) -> None:
    """Whoever may rename files there may put in their own."""
    new_keys(private, public, ORIGIN)
    private.chmod(bits)
    with pytest.raises(BadConfiguration, match="chmod 700"):
        load(private)


def test_new_keys_in_a_directory_open_to_others_are_refused(private: Path, public: Path) -> None:
    """Nothing is made there."""
    private.mkdir(parents=True)
    private.chmod(0o777)
    with pytest.raises(BadConfiguration, match="chmod 700"):
        new_keys(private, public, ORIGIN)
    assert everything(private, public) == {}


def test_key_that_only_its_owner_may_read_is_enough(private: Path, public: Path) -> None:
    """0400 is stricter than 0600."""
    new_keys(private, public, ORIGIN)
    for path in private.iterdir():
        path.chmod(0o400)
    assert load(private).origin == ORIGIN


def test_missing_keys_are_refused_with_the_command_that_makes_them(private: Path) -> None:
    """An operator who starts the server first learns what to do."""
    with pytest.raises(BadConfiguration, match="gnexec keys new"):
        load(private)


@pytest.mark.parametrize("name", ["log.pem", "pseudonym.key", "token-*.pem"])
def test_key_file_that_is_lost_is_named(private: Path, public: Path, name: str) -> None:
    """The message has the path."""
    new_keys(private, public, ORIGIN)
    lost = next(private.glob(name))
    lost.unlink()
    with pytest.raises(BadConfiguration, match=lost.name):
        load(private)


def pem_of_another_kind(password: bytes | None = None) -> bytes:
    """Return a key on another curve, or one of ours under a password."""
    if password is None:
        return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)
    )


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("log.pem", lambda: b"", "PEM"),
        ("log.pem", lambda: b"\xff" * 99, "PEM"),
        ("log.pem", lambda: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "PEM"),
        ("log.pem", pem_of_another_kind, "not an Ed25519 key"),
        ("log.pem", lambda: pem_of_another_kind(b"secret"), "without a password"),
        ("log.pem", lambda: b"x" * (files.MAX_FILE_BYTES + 1), "not a key file"),
        ("pseudonym.key", lambda: b"x" * 31, "32 bytes"),
        ("ring.json", lambda: b"{}", "cannot be read"),
        ("ring.json", lambda: b"\xff", "cannot be read"),
    ],
)
def test_key_file_with_something_else_is_refused(
    private: Path, public: Path, name: str, data: Callable[[], bytes], words: str
) -> None:
    """Damage and mix-ups are told apart, each in a sentence."""
    new_keys(private, public, ORIGIN)
    (private / name).write_bytes(data())
    with pytest.raises(BadConfiguration, match=words):
        load(private)


def test_key_file_that_is_a_pipe_is_refused_at_once(private: Path, public: Path) -> None:
    """Reading it would wait for ever."""
    new_keys(private, public, ORIGIN)
    (private / "log.pem").unlink()
    os.mkfifo(private / "log.pem", 0o600)
    with pytest.raises(BadConfiguration, match="not a key file"):
        load(private)


def test_token_key_under_another_kid_is_refused(private: Path, public: Path) -> None:
    """A file's name says which key is in it; two that were swapped are found."""
    new_keys(private, public, ORIGIN)
    one, two = sorted(private.glob("token-*.pem"))
    held = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(held)
    with pytest.raises(BadConfiguration, match=r"not those that ring\.json names"):
        load(private)


def test_one_key_for_log_and_tokens_is_refused(private: Path, public: Path) -> None:
    """What signs tokens for everyone must not be able to sign a checkpoint."""
    new_keys(private, public, ORIGIN)
    (private / "log.pem").write_bytes(next(private.glob("token-*.pem")).read_bytes())
    with pytest.raises(BadConfiguration, match="a key of its own"):
        load(private)


@pytest.mark.parametrize("x", [b64url(bytes(32)), "AA", ""])
def test_ring_with_an_unusable_previous_key_is_refused(private: Path, public: Path, x: str) -> None:
    """A small-order key put into the ring would let anyone sign."""
    new_keys(private, public, ORIGIN)
    ring = json.loads((private / "ring.json").read_bytes())
    (private / "ring.json").write_text(json.dumps({**ring, "previous": [{"x": x, "until_s": NOW}]}))
    with pytest.raises(BadConfiguration, match="previous key"):
        load(private)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda keys: [*keys, keys[0]],
        lambda keys: [{**keys[0], "use": "enc"}, *keys[1:]],
        lambda keys: [*keys, {"kty": "RSA", "kid": "r", "use": "sig", "n": "AQAB", "e": "AQAB"}],
        lambda keys: [{**keys[0], "kid": keys[1]["kid"]}, *keys[1:]],
        lambda keys: [{**keys[0], "d": "AA"}, *keys[1:]],
        lambda _: [],
    ],
    ids=["duplicate kid", "wrong use", "mixed key types", "kid of another", "private", "empty"],
)
def test_published_set_that_was_tampered_with_is_refused(
    private: Path, public: Path, spoil: Callable[[list[dict[str, str]]], list[dict[str, str]]]
) -> None:
    """One bad key spoils the set; the message names the file."""
    new_keys(private, public, ORIGIN)
    path = public / "jwks.json"
    path.write_text(json.dumps({"keys": spoil(json.loads(path.read_bytes())["keys"])}))
    with pytest.raises(BadConfiguration, match=r"jwks\.json is not a usable key set"):
        load_jwks(path)


# Rotated


def test_rotation_moves_next_to_current_and_current_to_previous(private: Path, public: Path) -> None:
    """The new current key was known as next before; the log's key, its name and the pseudonyms stay."""
    before = new_keys(private, public, ORIGIN)
    upcoming, current = before.token_public
    after = rotate_token_key(private, public, now_s=NOW)
    fresh, *known = after.token_public
    assert known == [upcoming, current]
    assert kid_of(after.token_current.public_key()) == upcoming
    assert fresh not in before.token_public
    assert (after.origin, after.pseudonym_secret) == (before.origin, before.pseudonym_secret)
    assert after.log_verifier == before.log_verifier
    assert load_jwks(public / "jwks.json") == after.token_public


def test_rotation_refuses_no_token_in_flight(private: Path, public: Path) -> None:
    """A token made before is read after, however often keys are rotated; a server not yet reloaded reads new ones."""
    before = new_keys(private, public, ORIGIN)
    text = job_token(before.token_current, life_s=LONGEST_S)
    for turn in range(3):
        keys = rotate_token_key(private, public, now_s=NOW + turn)
        assert read_job_token(text, keys.token_public, origin=ORIGIN).names(7)
        if turn == 0:
            assert read_job_token(job_token(keys.token_current), before.token_public, origin=ORIGIN).names(7)


def test_previous_key_is_retired_when_its_last_token_has_expired(private: Path, public: Path) -> None:
    """Not a second earlier; after that it is known for old logs only."""
    first = kid_of(new_keys(private, public, ORIGIN).token_current.public_key())
    rotate_token_key(private, public, now_s=NOW)
    assert first in rotate_token_key(private, public, now_s=NOW + LONGEST_S - 1).token_public
    assert not (public / "retired.json").exists()
    after = rotate_token_key(private, public, now_s=NOW + LONGEST_S)
    assert first not in after.token_public
    assert first not in load_jwks(public / "jwks.json")
    assert list(load_jwks(public / "retired.json")) == [first]


def test_rotation_keeps_no_private_key_that_signs_no_more(private: Path, public: Path) -> None:
    """Only the next and the current key can be stolen."""
    new_keys(private, public, ORIGIN)
    keys = rotate_token_key(private, public, now_s=NOW)
    named = {f"token-{kid}.pem" for kid in list(keys.token_public)[:2]}
    assert {path.name for path in private.glob("*.pem")} == {"log.pem", *named}
    assert {mode(path) for path in private.iterdir()} == {0o600}


def test_rotation_into_the_public_directory_of_another_log_changes_nothing(private: Path, tmp_path: Path) -> None:
    """A mistyped path must not put one server's keys over another's."""
    new_keys(private, tmp_path / "a", ORIGIN)
    new_keys(tmp_path / "other", tmp_path / "b", ORIGIN)
    before = everything(private, tmp_path / "b")
    for command in (
        lambda: rotate_token_key(private, tmp_path / "b", now_s=NOW),
        lambda: publish(private, tmp_path / "b"),
    ):
        with pytest.raises(BadConfiguration, match="another log"):
            command()
    assert everything(private, tmp_path / "b") == before


def test_publishing_again_restores_the_public_files(private: Path, public: Path, tmp_path: Path) -> None:
    """They are made from the ring alone."""
    new_keys(private, public, ORIGIN)
    for turn in range(2):
        rotate_token_key(private, public, now_s=NOW + turn * LONGEST_S)
    rotate_token_key(private, public, now_s=NOW + 3 * LONGEST_S)
    publish(private, tmp_path / "again")
    found = {path.name: data for path, data in everything(tmp_path / "again").items()}
    assert found == {path.name: data for path, data in everything(public).items()}
    assert set(found) == {"log.vkey", "jwks.json", "retired.json"}


class Killed(BaseException):
    """The process ends here: nothing that it would still do is done."""


DISK_FULL: Final = OSError(28, "No space left on device")


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> Callable[[], bool]:
    """Raise `error` at one of the calls that change files, and, if the process is killed, at each one after it.

    Returns:
        Whether it came so far.
    """
    left = [step]

    def wrap(real: Callable[P, R]) -> Callable[P, R]:
        def call(*args: P.args, **more: P.kwargs) -> R:
            left[0] -= 1
            if left[0] == -1 or (left[0] < -1 and isinstance(error, Killed)):
                raise error
            return real(*args, **more)

        return call

    for owner, name in [(os, "fsync"), (os, "link"), (Path, "replace"), (Path, "unlink")]:
        monkeypatch.setattr(owner, name, wrap(getattr(owner, name)))
    return lambda: left[0] < 0


def test_new_keys_on_a_full_disk_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step in turn: what was begun is undone, and the command can be given again."""
    failures = 0
    for step in range(100):
        private, public = tmp_path / f"{step}", tmp_path / f"{step}-public"
        with monkeypatch.context() as patch:
            reached = fail_at(patch, step, DISK_FULL)
            try:
                new_keys(private, public, ORIGIN)
            except BadConfiguration as err:
                assert "No space left" in str(err)  # noqa: PT017 -- the last round succeeds
                failures += 1
        if not reached():
            break
        # A removal that fails may leave a hidden file, which counts for nothing.
        assert not [path for path in everything(private, public) if not path.name.startswith(".")]
        assert new_keys(private, public, ORIGIN).origin == ORIGIN
    assert failures == step > 15


def test_new_keys_killed_anywhere_are_whole_or_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step in turn: there are all keys, and they stay; or none that count, and the same command makes them."""
    outcomes: list[str] = []
    for step in range(100):
        private, public = tmp_path / f"{step}", tmp_path / f"{step}-public"
        with monkeypatch.context() as patch:
            reached = fail_at(patch, step, Killed())
            with suppress(Killed):
                new_keys(private, public, ORIGIN)
        if not reached():
            break
        try:
            kept = load(private).log_verifier.vkey
            outcomes.append("whole")
            left = {path: data for path, data in everything(private, public).items() if path.name != "making.json"}
            with pytest.raises(BadConfiguration, match="never overwritten"):
                new_keys(private, public, ORIGIN)
            assert {path: data for path, data in everything(private, public).items() if path in left} == left
        except BadConfiguration as err:
            assert "gnexec keys new" in str(err)  # noqa: PT017 -- either is right, depending on the step
            kept = new_keys(private, public, ORIGIN).log_verifier.vkey
            outcomes.append("anew")
            assert sorted(path.name for path in private.iterdir() if path.suffix == ".pem").count("log.pem") == 1
            assert len(list(private.glob("*token-*"))) == 2, "a private key that nobody uses was left behind"
        assert load(private).log_verifier.vkey == kept
        assert (public / "log.vkey").read_text() == f"{kept}\n"
        assert load_jwks(public / "jwks.json") == load(private).token_public
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {"anew", "whole"}


@pytest.mark.parametrize("error", [DISK_FULL, Killed()], ids=["disk full", "killed"])
def test_rotation_interrupted_anywhere_leaves_the_old_keys_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """At each step in turn: the keys load, the token in flight is read, and the next rotation is whole."""
    for step in range(100):
        private, public = tmp_path / f"{step}", tmp_path / f"{step}-public"
        before = new_keys(private, public, ORIGIN)
        text = job_token(before.token_current)
        with monkeypatch.context() as patch:
            reached = fail_at(patch, step, error)
            with suppress(BadConfiguration, Killed):
                rotate_token_key(private, public, now_s=NOW)
        after = load(private)
        assert read_job_token(text, after.token_public, origin=ORIGIN).names(7)
        assert kid_of(after.token_current.public_key()) in load_jwks(public / "jwks.json")
        assert list(after.token_public)[-2:] == list(before.token_public)
        publish(private, public)
        assert load_jwks(public / "jwks.json") == after.token_public
        last = rotate_token_key(private, public, now_s=NOW + 1)
        assert list(last.token_public)[1] == next(iter(after.token_public))
        assert len(list(private.glob("token-*.pem"))) == 2
        if not reached():
            break
    assert step > 8


def test_loading_during_a_rotation_gives_the_old_keys_or_the_new(
    private: Path, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old current key may be removed between a reader's look at the ring and its look at the key."""
    new_keys(private, public, ORIGIN)
    read = files.read_private
    pending = [True]

    def rotate_after_the_ring(path: Path) -> bytes:
        data = read(path)
        if path.name == "ring.json" and pending:
            pending.clear()
            rotate_token_key(private, public, now_s=NOW)
        return data

    monkeypatch.setattr("gnexec.keys.ring.read_private", rotate_after_the_ring)
    found = load(private)
    assert not pending
    assert len(found.token_public) == 3


def test_two_rotations_at_once_come_one_after_the_other(private: Path, public: Path) -> None:
    """Neither is lost, and none builds on a ring that the other has replaced."""
    before = new_keys(private, public, ORIGIN)
    threads = [
        threading.Thread(target=rotate_token_key, args=(private, public), kwargs={"now_s": NOW}) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = load(private)
    assert len(after.token_public) == 2 + 4
    assert set(before.token_public) < set(after.token_public)
    assert load_jwks(public / "jwks.json") == after.token_public


# Rotated: log keys


def vkeys(keys: ServerKeys, *, in_force: bool = False) -> list[str]:
    """Return the log keys of a ring, oldest first."""
    return [key.vkey for key in keys.log_keys if key.private is not None or not in_force]


def test_new_log_key_signs_beside_the_one_before_and_is_vouched_for(private: Path, public: Path) -> None:
    """Two are in force until the next rotation; the public file names the newest, a list has all of them."""
    first = new_keys(private, public, ORIGIN)
    second = rotate_log_key(private, public, now_s=NOW)
    assert vkeys(second, in_force=True) == vkeys(second) == [first.log_verifier.vkey, second.log_verifier.vkey]
    third = rotate_log_key(private, public, now_s=NOW + 1)
    assert vkeys(third)[:2] == vkeys(second)
    assert vkeys(third, in_force=True) == vkeys(third)[1:]
    for older, newer in pairwise(third.log_keys):
        check_endorsement(newer.row.endorsement, ORIGIN, newer.vkey, older.vkey)
    assert (public / "log.vkey").read_text() == f"{third.log_verifier.vkey}\n"
    listed = json.loads((public / "log-keys.json").read_bytes())["keys"]
    assert [key["vkey"] for key in listed] == vkeys(third)
    assert third.token_public == first.token_public
    assert {mode(path) for path in private.iterdir()} == {0o600}


def test_log_key_that_signs_no_more_is_not_kept_in_private(private: Path, public: Path) -> None:
    """What is not there cannot be stolen; its public part stays."""
    old = new_keys(private, public, ORIGIN).log_verifier
    rotate_log_key(private, public, now_s=NOW)
    keys = retire_log_keys(private, public, now_s=NOW + 1)
    assert vkeys(keys, in_force=True) == [keys.log_verifier.vkey]
    assert vkeys(keys)[0] == old.vkey
    assert [path.name for path in private.glob("log*.pem")] == [keys.log_keys[-1].row.file]
    with pytest.raises(BadConfiguration, match="one key in force"):
        retire_log_keys(private, public, now_s=NOW + 2)
    alone = rotate_log_key(private, public, now_s=NOW + 3, alone=True)
    assert vkeys(alone, in_force=True) == [alone.log_verifier.vkey]


def test_stolen_token_keys_are_all_thrown_out(private: Path, public: Path) -> None:
    """Next, current and previous: whoever read the folder has the first two, and may have had the third."""
    before = new_keys(private, public, ORIGIN)
    before = rotate_token_key(private, public, now_s=NOW)
    text = job_token(before.token_current)
    after = revoke_token_keys(private, public, now_s=NOW + 1)
    assert after.revoked == set(before.token_public)
    assert not set(after.token_public) & set(before.token_public)
    with pytest.raises(Refused):
        read_job_token(text, after.token_public, origin=ORIGIN)
    assert set(load_jwks(public / "retired.json")) == set(before.token_public)
    later = rotate_token_key(private, public, now_s=NOW + 2)
    assert later.revoked == after.revoked


def test_list_of_keys_says_since_when_and_until_when(private: Path, public: Path) -> None:
    """Each with its role; what an older gnexec did not note is left open."""
    new_keys(private, public, ORIGIN, now_s=NOW)
    rotate_log_key(private, public, now_s=NOW + 1)
    rotate_token_key(private, public, now_s=NOW + 2)
    rows = [(line.use, line.since_s, line.until_s) for line in load(private).lines()]
    assert rows == [
        ("log", NOW + 1, None),
        ("log, previous", NOW, None),
        ("token, next", NOW + 2, None),
        ("token, current", NOW + 2, None),
        ("token, previous", NOW + 2, NOW + 2 + LONGEST_S),
    ]


def test_ring_of_an_older_gnexec_is_read_and_rotated(private: Path, public: Path) -> None:
    """It named no log key and no times; its one log key is the first of all."""
    made = new_keys(private, public, ORIGIN)
    old = {"origin": ORIGIN, "next": made.ring.next, "current": made.ring.current, "previous": [], "retired": []}
    (private / "ring.json").write_text(json.dumps(old))
    assert load(private).log_verifier == made.log_verifier
    assert all(line.since_s is None for line in load(private).lines())
    after = rotate_log_key(private, public, now_s=NOW)
    assert vkeys(after)[0] == made.log_verifier.vkey


WAYS: Final[dict[str, Callable[[Path, Path], ServerKeys]]] = {
    "log": lambda private, public: rotate_log_key(private, public, now_s=NOW + 1),
    "log now": lambda private, public: rotate_log_key(private, public, now_s=NOW + 1, alone=True),
    "log retire": lambda private, public: retire_log_keys(private, public, now_s=NOW + 1),
    "token now": lambda private, public: revoke_token_keys(private, public, now_s=NOW + 1),
}


@pytest.mark.parametrize("error", [DISK_FULL, Killed()], ids=["disk full", "killed"])
@pytest.mark.parametrize("way", WAYS)
def test_turn_interrupted_anywhere_leaves_the_old_ring_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, error: BaseException
) -> None:
    """At each step in turn: a whole ring is there, and the same command, given again, does what it ought to."""
    rings = set()
    for step in range(100):
        private, public = tmp_path / f"{step}", tmp_path / f"{step}-public"
        new_keys(private, public, ORIGIN)
        before = rotate_log_key(private, public, now_s=NOW)
        with monkeypatch.context() as patch:
            reached = fail_at(patch, step, error)
            with suppress(BadConfiguration, Killed):
                WAYS[way](private, public)
        after = load(private)
        rings.add("old" if after.ring == before.ring else "new")
        if after.ring == before.ring or not way.endswith("retire"):
            WAYS[way](private, public)
        publish(private, public)
        last = load(private)
        assert (public / "log.vkey").read_text() == f"{last.log_verifier.vkey}\n"
        named = {key.row.file for key in last.log_keys if key.private is not None}
        if not way.endswith("retire") or after.ring == before.ring:
            assert {path.name for path in private.glob("log*.pem")} == named
        if not reached():
            break
    assert step > 5
    assert rings == {"old", "new"}


# The worker's


def test_workers_key_is_made_once_and_kept(tmp_path: Path) -> None:
    """Mode 0600 in a directory of mode 0700; the second start reads it."""
    path = tmp_path / "gnexec" / "worker.pem"
    made = worker_key(path)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert public_jwk(worker_key(path).public_key()) == public_jwk(made.public_key())
    assert [p.name for p in path.parent.iterdir()] == ["worker.pem"]


def test_workers_that_start_at_once_get_the_same_key(tmp_path: Path) -> None:
    """The first file that is whole wins; nobody reads half of one."""
    path = tmp_path / "worker.pem"
    start = threading.Barrier(8)
    kids: list[str] = []

    def first_start() -> None:
        start.wait()
        kids.append(kid_of(worker_key(path).public_key()))

    threads = [threading.Thread(target=first_start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kids) == 8
    assert len(set(kids)) == 1


def test_workers_key_that_lost_the_race_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process links its key just before ours: theirs stands."""
    path = tmp_path / "worker.pem"
    link = os.link
    theirs: list[Ed25519PrivateKey] = []

    def late(source: Path, target: Path) -> None:
        if not theirs:
            theirs.append(worker_key_of_another())
        link(source, target)

    def worker_key_of_another() -> Ed25519PrivateKey:
        with monkeypatch.context() as patch:
            patch.setattr(os, "link", link)
            return worker_key(path)

    monkeypatch.setattr(os, "link", late)
    found = worker_key(path)
    assert public_jwk(found.public_key()) == public_jwk(theirs[0].public_key())
    assert [p.name for p in tmp_path.iterdir()] == ["worker.pem"]


def test_workers_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """It stands for the volunteer's good name."""
    path = tmp_path / "worker.pem"
    worker_key(path)
    path.chmod(0o644)
    with pytest.raises(BadConfiguration, match="chmod 600"):
        worker_key(path)


def test_workers_key_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    """The message has the path and the reason, not a stack trace."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BadConfiguration, match="file"):
        worker_key(tmp_path / "file" / "worker.pem")
