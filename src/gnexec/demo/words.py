"""Count the words of texts, and add up such counts.

A program for volunteers: this one file, Python 3.9 or later, nothing else.

    python3 words.py [--out counts.json] TEXT...               count
    python3 words.py --reduce [--out counts.json] COUNTS...    add up what counting wrote

The answer is one line of JSON with sorted keys and no spaces, so that equal counts are equal bytes:

    {"bytes":…,"files":…,"tokens":…,"vocabulary":{token: times, …},"words":…}

`words` are what white space separates, as `wc -w` counts; `tokens` are runs of the letters a-z after ASCII upper case
has been lowered. Both are taken from bytes: no locale, encoding or Unicode version takes part.

Files are counted one by one and added up. Concatenated first, the last word of a file that ends without a newline
would fuse with the first of the next, and the count would depend on how the files were shared out.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TOKEN = re.compile(rb"[a-z]+")
TOTALS = ("bytes", "files", "tokens", "words")


def count(text: bytes) -> dict[str, Any]:
    """Count one file: its totals and its vocabulary."""
    vocabulary = Counter(token.decode("ascii") for token in TOKEN.findall(text.lower()))
    return {
        "bytes": len(text),
        "files": 1,
        "tokens": sum(vocabulary.values()),
        "vocabulary": dict(vocabulary),
        "words": len(text.split()),
    }


def add(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Add counts up; the sum of none is zero throughout."""
    total: dict[str, Any] = dict.fromkeys(TOTALS, 0)
    vocabulary: Counter[str] = Counter()
    for part in parts:
        for key in TOTALS:
            total[key] += part[key]
        vocabulary.update(part["vocabulary"])
    return {**total, "vocabulary": dict(vocabulary)}


def read_counts(data: bytes) -> dict[str, Any]:
    """Read what this program wrote.

    Raises:
        ValueError: it is not that.
    """
    counts = json.loads(data)
    if not isinstance(counts, dict) or set(counts) != {*TOTALS, "vocabulary"}:
        msg = "these are not counts that words.py wrote"
        raise ValueError(msg)
    vocabulary = counts["vocabulary"]
    if not isinstance(vocabulary, dict) or not all(TOKEN.fullmatch(token.encode()) for token in vocabulary):
        msg = "the vocabulary must map tokens of a-z to numbers"
        raise ValueError(msg)
    numbers = [counts[key] for key in TOTALS] + list(vocabulary.values())
    if (
        not all(type(number) is int and number >= 0 for number in numbers)
        or sum(vocabulary.values()) != counts["tokens"]
    ):
        msg = "the numbers do not add up"
        raise ValueError(msg)
    return counts


def canonical(counts: dict[str, Any]) -> bytes:
    """Write counts, or a vocabulary, as JSON with sorted keys, without spaces or newline."""
    return json.dumps(counts, sort_keys=True, separators=(",", ":")).encode("ascii")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status, 0 or 1."""
    parser = argparse.ArgumentParser(description="Count words, or add counts up.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--reduce", action="store_true", help="the files are counts, not texts")
    parser.add_argument("--out", type=Path, default=Path("counts.json"), metavar="JSON")
    given = parser.parse_args(arguments)
    try:
        total = add((read_counts if given.reduce else count)(path.read_bytes()) for path in given.files)
    except (OSError, ValueError) as err:
        sys.stderr.write(f"words.py: {err}\n")
        return 1
    given.out.write_bytes(canonical(total) + b"\n")
    sys.stdout.write(f"files {total['files']} words {total['words']} tokens {total['tokens']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
