"""GEMMA, and the BXD example data that come with it: where they are, how they are called, how results are read.

It finds and parses; it runs nothing. The data are Debian's `gemma-doc`: 198 BXD mouse strains, 7,320 SNPs, one trait.

Rules:
- One BLAS thread and one named BLAS kernel, so that every x86-64 machine gives the same bytes. `Prescott` is the
  kernel that all of them can run.
- `*.log.txt` has dates and times in it and is never an output.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gnexec.errors import BadConfiguration

EXAMPLE: Final = Path("/usr/share/doc/gemma/example")
GENO: Final = "BXD_geno.txt.gz"
PHENO: Final = "BXD_pheno.txt"
SNPS: Final = "BXD_snps.txt"
KINSHIP: Final = "K.cXX.txt"
ENVIRONMENT: Final = {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Gemma:
    """GEMMA as found on this machine; `snps` is compressed, and `-a` wants it plain."""

    program: str
    geno: Path
    pheno: Path
    snps: Path


@dataclass(frozen=True, slots=True)
class Hit:
    """The SNP with the smallest p-value; `tied` SNPs share it, and this is the first of them. `position` in bp."""

    chromosome: str
    snp: str
    position: int
    p_lrt: str
    tied: int


def find(example: Path = EXAMPLE, which: Callable[[str], str | None] = shutil.which) -> Gemma:
    """Find the program and the example data.

    Raises:
        BadConfiguration: something is missing; names the Debian packages to install.
    """
    program = which("gemma")
    found = Gemma(program or "", example / GENO, example / PHENO, example / (SNPS + ".gz"))
    absent = [path for path in (found.geno, found.pheno, found.snps) if not path.is_file()]
    packages = [*([] if program else ["gemma"]), *(["gemma-doc"] if absent else [])]
    if not packages:
        return found
    why = "GEMMA is not installed" if not program else f"{absent[0]} is missing"
    msg = f"{why}: apt-get install --no-install-recommends {' '.join(packages)}"
    if absent:
        msg += f" (an image that leaves out documentation, such as Debian slim, also leaves out {EXAMPLE})"
    raise BadConfiguration(msg)


def kinship_argv(gemma: str) -> list[str]:
    """Return the command that writes `K.cXX.txt` from the genotypes."""
    return [gemma, "-g", GENO, "-p", PHENO, "-a", SNPS, "-gk", "-outdir", ".", "-o", "K"]


def trait_argv(gemma: str, pheno: str, column: int) -> list[str]:
    """Return the command that tests one trait at every SNP and writes `G.assoc.txt`; columns count from 1."""
    files = ["-g", GENO, "-p", pheno, "-n", str(column), "-a", SNPS, "-k", KINSHIP]
    return [gemma, *files, "-lmm", "9", "-maf", "0.1", "-outdir", ".", "-o", "G"]


def unpacked_snps(gemma: Gemma) -> bytes:
    """Return the SNP annotation as GEMMA reads it."""
    return gzip.decompress(gemma.snps.read_bytes())


def permuted(pheno: bytes, seed: str, k: int) -> bytes:
    """Return permutation k of a single-column trait file: measured values move among each other, NA stays.

    Measured value i becomes the value at place order[i]; order is 0..n-1 sorted by SHA-256 of `seed:k:i`.
    """
    lines = pheno.splitlines()
    measured = [i for i, line in enumerate(lines) if line != b"NA"]
    order = sorted(range(len(measured)), key=lambda i: hashlib.sha256(f"{seed}:{k}:{i}".encode()).digest())
    moved = list(lines)
    for place, source in zip(measured, order, strict=True):
        moved[place] = lines[measured[source]]
    return b"\n".join(moved) + b"\n"


def columns(pheno: bytes) -> int:
    """Return how many traits a file has.

    Raises:
        BadConfiguration: none, or lines of different lengths.
    """
    widths = {len(line.split()) for line in pheno.splitlines()}
    if len(widths) != 1 or not min(widths):
        msg = "a file of traits needs the same number of columns in every line, one or more"
        raise BadConfiguration(msg)
    return widths.pop()


def top_hit(assoc: bytes) -> Hit:
    """Read the most significant SNP from a `*.assoc.txt`.

    Raises:
        ValueError: a column is missing, a row does not fit, or no p-value is a number.
    """
    header, *rows = [line.split("\t") for line in assoc.decode("ascii").splitlines()]
    chromosome, snp, position, p_lrt = (header.index(name) for name in ("chr", "rs", "ps", "p_lrt"))
    if any(len(row) != len(header) or not all(field.isprintable() for field in row) for row in rows):
        msg = "an association table has a row that does not fit its header"
        raise ValueError(msg)
    tested = [(float(row[p_lrt]), row) for row in rows if row[p_lrt] not in {"nan", "-nan"}]
    if not tested:
        msg = "an association table has no p-value"
        raise ValueError(msg)
    least, best = min(tested, key=lambda pair: pair[0])
    tied = sum(p == least for p, _ in tested)
    return Hit(best[chromosome], best[snp], int(best[position]), best[p_lrt], tied)
