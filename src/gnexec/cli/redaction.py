"""Takes secrets out of text that is about to be written: a second net, below the rule that none is ever put in.

What is known by its form goes: tokens and statements (JWS, RFC 7515), the value of a header that carries one,
credentials in addresses and in connection strings, queries of addresses, private keys in PEM. What has no form cannot
be found here: names, command lines and what jobs print must never be handed to a log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

GONE: Final = "[removed]"
SECRET_FIELDS: Final = frozenset(
    {"authorization", "cookie", "headers", "password", "proof", "secret", "statement", "token", "tokens"}
)
"""Fields of an event whose values are never written, whatever they look like."""

_RULES: Final = (
    # in this order: what a later rule would cut in two goes first
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), GONE),
    (re.compile(r"\beyJ[\w-]{4,}\.[\w-]+(?:\.[\w-]*)?"), GONE),
    (re.compile(r"\b(bearer|basic|negotiate)\s+[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1 {GONE}"),
    (
        re.compile(r"\b((?:proxy-)?authorization|(?:set-)?cookie)\b(['\"]?\s*[:=,]\s*)[^\r\n]+", re.IGNORECASE),
        rf"\1\2{GONE}",
    ),
    (re.compile(r"(://[^\s/:@'\"]*):[^\s'\"]*@"), rf"\1:{GONE}@"),
    (
        re.compile(
            r"\b(pass(?:word|wd|phrase)|secret|(?:access_|job_|api_)?token|api_?key)(['\"]?\s*=\s*)[^\s&,;]+",
            re.IGNORECASE,
        ),
        rf"\1\2{GONE}",
    ),
    (re.compile(r"(\"(?:password|secret|token|statement)\"\s*:\s*)\"[^\"]*\"?", re.IGNORECASE), rf'\1"{GONE}"'),
    (re.compile(r"((?:\b[\w.-]+:[0-9]+|\s|^|['\"(])/[^\s?'\"]*)\?[^\s'\"]+"), rf"\1?{GONE}"),
)


def redacted(text: str) -> str:
    """Return `text` without what has the form of a secret."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def without_secrets(value: object, name: str = "") -> object:
    """Return a value as it may be written.

    Args:
        value: of any type; what is not a number, a truth value, None, a list or a mapping becomes text.
        name: of the field that holds it.
    """
    match value:
        case None | bool() | int() | float():
            return value
        case _ if name.lower() in SECRET_FIELDS:
            return GONE
        case Mapping():
            return {str(key): without_secrets(each, str(key)) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [without_secrets(each) for each in value]
        case _:
            return redacted(str(value))
