"""What an auditor trusts: the key given, else kept, else published, else (with a warning) the log's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.audit.anchor import Known, checkpoints_home, choose_anchor, read_vkey
from gnexec.audit.verify import verify
from gnexec.errors import BadConfiguration, ProofError
from gnexec.tlog.note import Verifier
from tests.audit.logs import ORIGIN, VERIFIER, honest, long

OTHER = Verifier.of(ORIGIN, Ed25519PrivateKey.generate().public_key())


def test_first_use_takes_the_logs_own_key_and_later_ones_the_kept() -> None:
    """A log is believed about its key once; afterwards the key that was kept counts, whatever the log says."""
    anchor = choose_anchor(ORIGIN, VERIFIER.vkey)
    assert (anchor.known, anchor.kept) == (Known.FIRST_USE, None)
    anchor.keep(honest().note)
    again = choose_anchor(ORIGIN, OTHER.vkey)
    assert (again.known, again.key.vkey) == (Known.KEPT, VERIFIER.vkey)
    assert again.kept is not None
    assert again.kept.size == honest().header.size


def test_given_key_goes_before_all_others(tmp_path: Path) -> None:
    """A key may be given as it is or in a file."""
    choose_anchor(ORIGIN, VERIFIER.vkey).keep(honest().note)
    file = tmp_path / "log.vkey"
    file.write_text(f"{OTHER.vkey}\n")
    for given in (OTHER.vkey, str(file)):
        anchor = choose_anchor(ORIGIN, VERIFIER.vkey, given)
        assert (anchor.known, anchor.key.vkey) == (Known.GIVEN, OTHER.vkey)


def test_kept_checkpoint_of_another_key_is_a_finding() -> None:
    """Two keys for one log: one of them lies, and it is not passed over."""
    choose_anchor(ORIGIN, VERIFIER.vkey).keep(honest().note)
    key = Ed25519PrivateKey.generate()
    forged = long(key=key).log()
    anchor = choose_anchor(ORIGIN, None, forged.header.vkey)
    with pytest.raises(ProofError, match="which must never happen"):
        verify(forged.header, forged.items, anchor.key, kept=anchor.kept, kept_note=anchor.note)


def test_published_key_counts_for_its_own_log_only(tmp_path: Path) -> None:
    """`keys/log.vkey` of the current folder is used where it names this log."""
    Path("keys").mkdir()
    Path("keys/log.vkey").write_text(f"{VERIFIER.vkey}\n")
    assert choose_anchor(ORIGIN, OTHER.vkey).known is Known.PUBLISHED
    other = Verifier.of("other.test", OTHER.public_key).vkey
    assert choose_anchor("other.test", other).known is Known.FIRST_USE
    assert list(tmp_path.glob("**/checkpoints")) == []


def test_key_of_another_log_is_refused() -> None:
    """A key has the name of its log."""
    with pytest.raises(BadConfiguration, match="of the log"):
        choose_anchor("other.test", None, VERIFIER.vkey)


def test_log_without_any_key_is_refused_with_words() -> None:
    """A receipt does not bring a key along."""
    with pytest.raises(BadConfiguration, match="--vkey"):
        choose_anchor(ORIGIN, None)


@pytest.mark.parametrize("text", ["a+b", "x+00000000+AA==", f"{ORIGIN}+00000000+{VERIFIER.vkey[-44:]}", "nowhere"])
def test_text_that_is_no_key_is_refused(text: str) -> None:
    """What cannot be read as a key, or as a file that has one, is said to be none."""
    with pytest.raises(BadConfiguration):
        read_vkey(text)


def test_claimed_key_is_never_taken_for_a_path(tmp_path: Path) -> None:
    """A hostile log cannot have a file of the auditor's read."""
    secret = tmp_path / "secret"
    secret.write_text("private words")
    with pytest.raises(BadConfiguration) as caught:
        choose_anchor(ORIGIN, str(secret))
    assert "private" not in str(caught.value)


@pytest.mark.parametrize("origin", ["..", ".", "../../etc", "/etc/passwd", "a/b", ".hidden"])
def test_name_of_a_log_leads_nowhere_else(origin: str) -> None:
    """Whatever a log calls itself, its checkpoint is kept in a folder of its own."""
    key = Verifier.of(origin, OTHER.public_key)
    anchor = choose_anchor(origin, key.vkey)
    anchor.keep(b"note")
    assert anchor.folder.parent == checkpoints_home()
    assert anchor.folder.resolve().parent == checkpoints_home().resolve()
    assert sorted(path.name for path in anchor.folder.iterdir()) == ["checkpoint", "log.vkey"]


def test_secret_key_given_by_mistake_is_never_repeated(tmp_path: Path) -> None:
    """Whoever names the wrong file is told so, without its content on the screen."""
    secret = tmp_path / "log.pem"
    secret.write_text("-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----\n")
    with pytest.raises(BadConfiguration, match="secret key") as found:
        read_vkey(str(secret))
    assert "MC4CAQ" not in str(found.value)
