"""Canonical JSON is that of RFC 8785, whichever way it was made."""

from __future__ import annotations

from typing import Any

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from gnexec.core.canonical import canonical
from gnexec.ids import MAX_SAFE_INT

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_SAFE_INT, MAX_SAFE_INT)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


@given(VALUES)
def test_canonical_any_value_equals_rfc8785(value: Any) -> None:  # noqa: ANN401 -- any JSON value
    """The fast way and the general way write the same bytes."""
    assert canonical(value) == rfc8785.dumps(value)


@given(st.dictionaries(st.text(st.characters(max_codepoint=127)), st.text(st.characters(max_codepoint=127))))
def test_canonical_ascii_with_control_characters_equals_rfc8785(value: dict[str, str]) -> None:
    """Every ASCII character is escaped as RFC 8785 asks, or not at all."""
    assert canonical(value) == rfc8785.dumps(value)
