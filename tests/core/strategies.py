"""Strategies that make any event: every field of every type, from the types themselves, so that none is forgotten."""

from __future__ import annotations

import types
from enum import StrEnum
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from gnexec.core.events import AnyEvent
from gnexec.ids import MAX_SAFE_INT

KINDS: tuple[type[Any], ...] = get_args(AnyEvent)
"""The classes of all events."""

TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('\0\x1f\x7f\\"/é\u2028😀')))


def any_event() -> st.SearchStrategy[AnyEvent]:
    """Return a strategy for events of every type."""
    return st.one_of([of(kind) for kind in KINDS])


def of(kind: Any) -> st.SearchStrategy[Any]:  # noqa: ANN401 -- any annotation that an event uses
    """Return a strategy for the values of a type, as far as events use types."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(-MAX_SAFE_INT, MAX_SAFE_INT)
    if kind is str:
        return TEXT
    if kind is type(None):
        return st.none()
    if origin in (Union, types.UnionType):
        return st.one_of([of(each) for each in inner])
    if origin is list:
        return st.lists(of(inner[0]), max_size=3)
    if origin is tuple:
        return st.tuples(*map(of, inner))
    if issubclass(kind, StrEnum):
        return st.sampled_from(kind)
    if issubclass(kind, msgspec.Struct):
        return st.deferred(lambda: _struct(kind))
    raise TypeError(kind)


def _struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind)
    values = st.fixed_dictionaries({field.name: of(hints[field.name]) for field in msgspec.structs.fields(kind)})
    return values.map(lambda found: kind(**found))
