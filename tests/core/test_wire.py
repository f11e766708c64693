"""Bytes: events and leaves in their one canonical form, and what is refused on the way back."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from gnexec.core.events import AnyEvent, LogOpened
from gnexec.errors import CorruptLog, UnknownEvent
from gnexec.ids import MAX_SAFE_INT
from gnexec.wire import Leaf, decode_event, decode_leaf, encode_event, encode_leaf, open_entry, open_payload
from tests.core.strategies import KINDS, any_event, of

SALT = bytes(range(16))
EVENT = LogOpened(origin="gnexec.test/log", vkey="v")
PAYLOAD = b'{"origin":"gnexec.test/log","t":"log-opened/1","vkey":"v"}'
LEAF = b'{"at":5,"d":"%s","v":1}' % hashlib.sha256(SALT + PAYLOAD).hexdigest().encode()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_event_of_every_type_round_trips_as_canonical_json(kind: type[Any]) -> None:
    """For any values: decoding gives the event back, and the bytes are those of RFC 8785."""

    @given(of(kind))
    def check(event: AnyEvent) -> None:
        payload = encode_event(event)
        assert decode_event(payload) == event
        assert payload == rfc8785.dumps(msgspec.to_builtins(event))
        assert encode_event(decode_event(payload)) == payload

    check()


def test_event_tags_are_names_with_versions() -> None:
    """Every type has a tag of its own that says its version."""
    tags = [kind.__struct_config__.tag for kind in KINDS]
    assert len(set(tags)) == len(tags)
    for tag in tags:
        name, _, version = tag.partition("/")
        assert name.replace("-", "").isalpha()
        assert int(version) >= 1


def test_event_known_bytes_stay_as_they_are() -> None:
    """A payload's form is for ever."""
    assert encode_event(EVENT) == PAYLOAD
    assert encode_leaf(5, SALT, PAYLOAD) == LEAF


@pytest.mark.parametrize(
    "tag", ["log-opened/2", "log-opened/0", "log-opened", "job-revised/1", "", "LOG-OPENED/1", "log-opened/1 "]
)
def test_event_of_unknown_type_or_version_is_unknown(tag: str) -> None:
    """What a newer gnexec wrote is not damage, and is never skipped."""
    with pytest.raises(UnknownEvent):
        decode_event(json.dumps({"t": tag, "origin": "a", "vkey": "b"}).encode())


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"17",
        b'"log-opened/1"',
        b"{}",
        b'{"t":1}',
        b'{"t":null}',
        b'["log-opened/1","a","b"]',
        PAYLOAD[:-1],
        PAYLOAD + b"}",
        PAYLOAD + PAYLOAD,
        b"\xef\xbb\xbf" + PAYLOAD,
        b'{"t":"log-opened/1","origin":"a"}',
        b'{"t":"log-opened/1","origin":"a","vkey":1}',
        b'{"t":"log-opened/1","origin":"a","vkey":"b","more":1}',
        b'{"t":"log-opened/1","origin":"\xff","vkey":"b"}',
        b'{"t":"log-opened/1","origin":"\\ud800","vkey":"b"}',
        b'{"t":"outage-ended/1","since_ms":1e400,"until_ms":2}',
        b'{"t":"outage-ended/1","since_ms":1.5,"until_ms":2}',
        b'{"t":"outage-ended/1","since_ms":"1","until_ms":2}',
        b"[" * 100_000,
        b'{"t":' + b"[" * 100_000,
        b'{"x":' + b"[" * 100_000,
    ],
    ids=lambda payload: payload[:40].decode(errors="replace"),
)
def test_event_that_is_garbage_is_corrupt_and_not_unknown(payload: bytes) -> None:
    """Damage is told apart from a newer version."""
    with pytest.raises(CorruptLog) as caught:
        decode_event(payload)
    assert not isinstance(caught.value, UnknownEvent)


@given(st.binary(max_size=60))
def test_event_from_any_bytes_is_an_event_or_corrupt(payload: bytes) -> None:
    """Whatever the bytes, nothing but `CorruptLog` comes out."""
    with contextlib.suppress(CorruptLog):
        decode_event(payload)


@given(any_event(), st.integers(0, MAX_SAFE_INT), st.binary(min_size=16, max_size=16))
def test_leaf_round_trips_and_opens_its_payload(event: AnyEvent, at_ms: int, salt: bytes) -> None:
    """A leaf is canonical JSON, small, and commits to the payload under its salt."""
    payload = encode_event(event)
    encoded = encode_leaf(at_ms, salt, payload)
    leaf = decode_leaf(encoded)
    assert encoded == rfc8785.dumps({"at": at_ms, "d": hashlib.sha256(salt + payload).hexdigest(), "v": 1})
    assert leaf.at == at_ms
    assert open_payload(leaf, salt, payload) == event
    assert open_entry(encoded, salt, payload) == (at_ms, event)
    assert len(encoded) < 128


@pytest.mark.parametrize(
    "leaf",
    [
        b"",
        b"null",
        LEAF[:-1],
        LEAF + b" ",
        b" " + LEAF,
        LEAF.replace(b",", b", ", 1),
        LEAF.replace(b'"at":5', b'"at":05'),
        LEAF.replace(b'"at":5', b'"at":-5'),
        LEAF.replace(b'"at":5', b'"at":5.0'),
        LEAF.replace(b'"at":5', b'"at":9007199254740992'),
        LEAF.replace(b'"at":5', b'"at":"5"'),
        LEAF.replace(b'"at":5,', b""),
        LEAF.replace(b'"at":5', b'"at":4,"at":5'),
        LEAF.replace(b'"v":1', b'"v":1,"v":1'),
        LEAF.replace(b'"v":1', b'"v":1,"x":1'),
        LEAF.replace(b',"v":1', b""),
        LEAF.upper(),
        b'{"at":5,"d":"%s","v":1}' % hashlib.sha256(b"").hexdigest().upper().encode(),
        b'{"at":5,"d":"","v":1}',
        b'{"at":5,"d":"zz","v":1}',
        b'{"at":5,"d":null,"v":1}',
        b'{"v":1,"d":"%s","at":5}' % hashlib.sha256(b"").hexdigest().encode(),
        b'{"at":5,"d":"\xff","v":1}',
        b"[" * 100_000,
        b'{"v":' + b"[" * 100_000,
    ],
    ids=lambda leaf: leaf[:30].decode(errors="replace"),
)
def test_leaf_in_any_other_form_is_corrupt(leaf: bytes) -> None:
    """A leaf has exactly one form."""
    with pytest.raises(CorruptLog) as caught:
        decode_leaf(leaf)
    assert not isinstance(caught.value, UnknownEvent)
    with pytest.raises(CorruptLog) as caught:
        open_entry(leaf, SALT, PAYLOAD)
    assert not isinstance(caught.value, UnknownEvent)


@pytest.mark.parametrize(
    "leaf", [LEAF.replace(b'"v":1', b'"v":2'), b'{"at":5,"d2":"x","v":2}', b'{"v":0}'], ids=lambda leaf: leaf.decode()
)
def test_leaf_of_another_version_is_unknown(leaf: bytes) -> None:
    """A later form of the leaf is not damage, whatever its fields."""
    with pytest.raises(UnknownEvent):
        decode_leaf(leaf)
    with pytest.raises(UnknownEvent):
        open_entry(leaf, SALT, PAYLOAD)


@pytest.mark.parametrize(
    ("salt", "payload"),
    [
        (SALT[::-1], PAYLOAD),
        (SALT, PAYLOAD.replace(b"test", b"tesu")),
        (SALT + PAYLOAD[:1], PAYLOAD[1:]),
        (SALT[:15], SALT[15:] + PAYLOAD),
        (b"", SALT + PAYLOAD),
    ],
)
def test_payload_that_the_leaf_does_not_commit_to_is_corrupt(salt: bytes, payload: bytes) -> None:
    """Neither another payload, nor another salt, nor a boundary that was moved between the two, passes."""
    leaf = decode_leaf(LEAF)
    assert open_payload(leaf, SALT, PAYLOAD) == EVENT
    with pytest.raises(CorruptLog, match="commits to"):
        open_payload(leaf, salt, payload)
    with pytest.raises(CorruptLog, match="commits to"):
        open_entry(LEAF, salt, payload)


def test_leaf_type_is_what_is_encoded() -> None:
    """The leaf's record and its bytes say the same."""
    assert decode_leaf(LEAF) == Leaf(at=5, d=hashlib.sha256(SALT + PAYLOAD).hexdigest())
