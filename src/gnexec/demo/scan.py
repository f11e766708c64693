"""Map a trait over a panel of inbred strains, and map it again with the trait shuffled: exact on every machine.

A program for volunteers: this one file, Python 3.9 or later, nothing else.

    python3 scan.py --geno geno.tsv --pheno pheno.tsv --seed S --from A --to B [--out best.tsv] [--scan curve.tsv]

For each permutation k in A..B-1 it writes the best LOD of the genome to `best.tsv`; with `--scan`, the LOD of each
locus for the trait as it is to `curve.tsv`. `--from 0 --to 0 --scan curve.tsv` does nothing but the scan.

The method is single-marker additive regression: genotype B = -1, H = 0, D = +1, LOD = -(n/2) log10(1 - r²).
Permutation k gives strain j the trait of strain order[j], where order is 0..n-1 sorted by SHA-256 of `seed:k:i`.

Why two machines never differ by a byte: the trait is read as an integer number of millionths, r² is compared as a
fraction of integers, and the logarithm is taken by `decimal`, which rounds correctly at 50 digits by its specification,
before the LOD is cut to 4 decimals. No binary floating point and no C mathematics library takes part.

It does not handle missing genotypes or covariates. Strains without a value (NA, x or nothing) are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from itertools import compress
from math import gcd
from pathlib import Path
from typing import NamedTuple

EXACT = Context(prec=50, rounding=ROUND_HALF_EVEN)
LETTERS = frozenset("BHD")
NO_VALUE = ("", "NA", "x")
IS_D = bytes(letter == ord("D") for letter in range(256))
IS_H = bytes(letter == ord("H") for letter in range(256))


class Locus(NamedTuple):
    """One line of the map: chromosome, name and centimorgan as they were written, and one letter for each strain."""

    chromosome: str
    name: str
    centimorgan: str
    letters: bytes


class Pattern(NamedTuple):
    """A distinct row of genotypes.

    `is_d` and `is_h` have 0 or 1 for each strain (`is_h` is empty when none is); `spread` is n·Σx² - (Σx)².
    """

    is_d: bytes
    is_h: bytes
    spread: int


class Panel(NamedTuple):
    """What is scanned.

    `loci` hold the letters of the n measured strains only; `trait` is n integers in proportion to n·y - Σy, which sum
    to zero and have no common divisor: small numbers add fast, and r² does not depend on the unit.
    """

    loci: list[Locus]
    trait: list[int]


def read_panel(geno: Path, pheno: Path) -> Panel:
    """Read both tables and keep the strains that have a value.

    Raises:
        ValueError: a table does not have the form above; fewer than 3 strains are measured; all have the same value.
    """
    values = _read_values(pheno)
    lines = [line for line in geno.read_text("utf-8").splitlines() if line and line[0] not in "#@"]
    header = lines[0].split("\t") if lines else []
    first = 4 if header[3:4] == ["Mb"] else 3
    strains = header[first:]
    if header[:3] != ["Chr", "Locus", "cM"] or len(set(strains)) != len(strains):
        msg = f"{geno}: the header must be Chr, Locus, cM, perhaps Mb, and each strain once"
        raise ValueError(msg)
    unknown = sorted(set(values) - set(strains))
    if unknown:
        msg = f"{pheno}: no genotypes for strain {unknown[0]!r}"
        raise ValueError(msg)
    measured = [strain in values for strain in strains]
    trait = [values[strain] for strain in compress(strains, measured)]
    n, total = len(trait), sum(trait)
    if n < 3 or min(trait) == max(trait):
        msg = f"{pheno}: 3 strains or more, and 2 different values, are needed"
        raise ValueError(msg)
    loci = []
    for line in lines[1:]:
        fields = line.split("\t")
        if len(fields) != len(header) or not LETTERS.issuperset(fields[first:]):
            msg = f"{geno}: locus {fields[1:2]} needs one letter B, H or D for each of {len(strains)} strains"
            raise ValueError(msg)
        letters = "".join(compress(fields[first:], measured)).encode("ascii")
        loci.append(Locus(fields[0], fields[1], fields[2], letters))
    centred = [n * value - total for value in trait]
    unit = gcd(*centred)
    return Panel(loci, [value // unit for value in centred])


def _read_values(pheno: Path) -> dict[str, int]:
    values: dict[str, int] = {}
    for line in pheno.read_text("utf-8").splitlines()[1:]:
        strain, _, text = line.partition("\t")
        if text in NO_VALUE:
            continue
        if strain in values:
            msg = f"{pheno}: strain {strain!r} is there twice"
            raise ValueError(msg)
        try:
            values[strain] = int(Decimal(text).scaleb(6, EXACT).to_integral_value(ROUND_HALF_EVEN))
        except (InvalidOperation, OverflowError, ValueError):
            msg = f"{pheno}: strain {strain!r} has {text!r} where a number is needed"
            raise ValueError(msg) from None
    return values


def pattern_of(letters: bytes) -> Pattern:
    """Turn a row of letters into the form that `covariance` wants."""
    n, d, h = len(letters), letters.count(b"D"), letters.count(b"H")
    is_d, is_h = letters.translate(IS_D), letters.translate(IS_H) if h else b""
    b = n - d - h
    return Pattern(is_d, is_h, n * (b + d) - (d - b) ** 2)


def covariance(pattern: Pattern, trait: Sequence[int]) -> int:
    """Return Σ x·trait for genotypes x.

    Since the trait sums to zero, Σ over D minus Σ over B is twice Σ over D plus once Σ over H.
    """
    return 2 * sum(compress(trait, pattern.is_d)) + sum(compress(trait, pattern.is_h))


def group(loci: Iterable[Locus]) -> dict[int, list[Pattern]]:
    """Collect the distinct patterns that vary by their spread: within a group the largest |covariance| is the best."""
    groups: dict[int, list[Pattern]] = {}
    for letters in dict.fromkeys(locus.letters for locus in loci):
        pattern = pattern_of(letters)
        if pattern.spread:
            groups.setdefault(pattern.spread, []).append(pattern)
    return groups


def shuffle(trait: Sequence[int], seed: str, k: int) -> list[int]:
    """Return permutation k of the trait."""
    order = sorted(range(len(trait)), key=lambda i: hashlib.sha256(f"{seed}:{k}:{i}".encode()).digest())
    return [trait[i] for i in order]


def lod(covariance: int, spread: int, trait: Sequence[int]) -> str:
    """Return the LOD with 4 decimals; `inf` where the genotype explains the trait wholly.

    r² = covariance² · n / (spread · Σ trait²), since `spread` is n times Σ(x - mean)².
    """
    n = len(trait)
    top, bottom = covariance**2 * n, spread * sum(value * value for value in trait)
    if top == 0:
        return "0.0000"
    if top == bottom:
        return "inf"
    rest = EXACT.divide(Decimal(bottom - top), Decimal(bottom))
    return f"{EXACT.multiply(EXACT.log10(rest), EXACT.divide(Decimal(-n), Decimal(2))):.4f}"


def best_lod(groups: dict[int, list[Pattern]], trait: Sequence[int]) -> str:
    """Return the largest LOD over all patterns; fractions are compared by cross-multiplication."""
    best, best_spread = 0, 1
    for spread, patterns in groups.items():
        most = max(abs(covariance(pattern, trait)) for pattern in patterns)
        if most * most * best_spread > best * best * spread:
            best, best_spread = most, spread
    return lod(best, best_spread, trait)


def curve(panel: Panel) -> Iterable[str]:
    """Yield one line a locus: chromosome, name, centimorgan, LOD of the trait as it is."""
    known: dict[bytes, str] = {}
    for locus in panel.loci:
        if locus.letters not in known:
            pattern = pattern_of(locus.letters)
            known[locus.letters] = lod(covariance(pattern, panel.trait), pattern.spread, panel.trait)
        yield f"{locus.chromosome}\t{locus.name}\t{locus.centimorgan}\t{known[locus.letters]}"


def write_table(path: Path, header: str, rows: Iterable[str]) -> None:
    """Write lines that end in a single newline on every system."""
    path.write_bytes("".join(f"{row}\n" for row in (header, *rows)).encode("utf-8"))


def say(line: str) -> None:
    """Print a line at once, so that whoever watches sees it while the program runs."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status, 0 or 1."""
    parser = argparse.ArgumentParser(description="Scan a trait over a panel, with permutations.")
    parser.add_argument("--geno", type=Path, required=True, metavar="TSV")
    parser.add_argument("--pheno", type=Path, required=True, metavar="TSV")
    parser.add_argument("--seed", required=True, help="text from which the permutations are made")
    parser.add_argument("--from", dest="first", type=int, required=True, metavar="A", help="first permutation")
    parser.add_argument("--to", dest="end", type=int, required=True, metavar="B", help="one past the last permutation")
    parser.add_argument(
        "--out", type=Path, default=Path("best.tsv"), metavar="TSV", help="best LOD of each permutation"
    )
    parser.add_argument("--scan", type=Path, metavar="TSV", help="also write the LOD curve of the trait as it is")
    given = parser.parse_args(arguments)
    if not 0 <= given.first <= given.end:
        parser.error("0 <= A <= B is needed")
    try:
        panel = read_panel(given.geno, given.pheno)
    except (OSError, ValueError) as err:
        sys.stderr.write(f"scan.py: {err}\n")
        return 1
    groups = group(panel.loci)
    say(f"strains {len(panel.trait)} loci {len(panel.loci)} patterns {sum(map(len, groups.values()))}")
    if given.scan:
        write_table(given.scan, "Chr\tLocus\tcM\tLOD", curve(panel))
    rows, total = [], given.end - given.first
    for done, k in enumerate(range(given.first, given.end), 1):
        rows.append(f"{k}\t{best_lod(groups, shuffle(panel.trait, given.seed, k))}")
        if done * 10 // total > (done - 1) * 10 // total:
            say(f"progress {done}/{total}")
    write_table(given.out, "Permutation\tLOD", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
