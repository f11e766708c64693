"""Generate a mouse recombinant-inbred panel with planted QTLs, the same bytes from the same seed on every machine.

A panel is what the permutation demo maps: inbred strains bred from two parents, B and D, so that each strain is B or D
at each locus in long runs; and one measured trait, on which two loci act. It is made up, but made as nature does it:
chromosome lengths of the mouse, recombination of strains inbred by sib mating, near-normal noise.

It does no input or output and knows no clock. Rules:
- Randomness is SHA-256 in counter mode over `seed:purpose:block`, 64 bits a draw. `random` is not used.
- Every value is an integer: positions in thousandths of a centimorgan, probabilities as fractions, the trait in mg.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

CHROMOSOMES: Final[dict[str, int]] = {
    # name: length in thousandths of a centimorgan. Source: Cox et al. 2009, Genetics 182:1335-1344, Table 1.
    "1": 98_500, "2": 103_900, "3": 82_700, "4": 88_600, "5": 90_200, "6": 79_000, "7": 89_100,
    "8": 76_200, "9": 75_100, "10": 77_900, "11": 88_000, "12": 63_900, "13": 67_300, "14": 66_400,
    "15": 59_000, "16": 57_800, "17": 61_300, "18": 59_400, "19": 56_900, "X": 79_400,
}  # fmt: skip
SPACING: Final = 400
"""Mean distance of neighbouring loci, in thousandths of a centimorgan."""
MEAN_MG: Final = 25_000
EFFECTS_MG: Final = (750, 550)
"""Half the difference between D and B strains at each planted locus; the noise has a standard deviation of 1,001 mg."""


@dataclass(frozen=True, slots=True)
class Locus:
    """A place on the map.

    Attributes:
        chromosome: key of `CHROMOSOMES`.
        name: unique in the panel.
        position: thousandths of a centimorgan, 0..length of the chromosome.
    """

    chromosome: str
    name: str
    position: int

    @property
    def centimorgan(self) -> str:
        """The position in centimorgan, three decimals."""
        return f"{self.position // 1000}.{self.position % 1000:03d}"


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel, as generated.

    Attributes:
        seed: what it was generated from.
        strains: names of the n strains.
        loci: in map order.
        genotypes: one string for each locus, n letters B or D each.
        trait_mg: n integers.
        planted: the loci that act on the trait, strongest first; each is one of `loci`.
    """

    seed: str
    strains: tuple[str, ...]
    loci: tuple[Locus, ...]
    genotypes: tuple[str, ...]
    trait_mg: tuple[int, ...]
    planted: tuple[Locus, ...]


def generate(seed: str, strains: int = 90) -> Panel:
    """Breed a panel of about 3,800 loci.

    Args:
        seed: any text; another text gives another panel.
        strains: how many, 3 or more.

    Raises:
        ValueError: fewer than 3 strains.
    """
    if strains < 3:
        msg = f"a panel needs 3 strains or more, got {strains}"
        raise ValueError(msg)
    loci = tuple(locus for name in CHROMOSOMES for locus in _place(seed, name))
    chances = _chances(loci)
    bred = [_breed(seed, strain, chances) for strain in range(strains)]
    genotypes = tuple("".join(letters) for letters in zip(*bred, strict=True))
    planted = _plant(seed, loci)
    rows = [genotypes[loci.index(locus)] for locus in planted]
    noise = _draws(seed, "noise")
    trait = tuple(
        MEAN_MG
        + sum(effect if row[i] == "D" else -effect for effect, row in zip(EFFECTS_MG, rows, strict=True))
        + sum(draw * 1001 >> 64 for draw in islice(noise, 12))
        - 6000
        for i in range(strains)
    )
    return Panel(seed, tuple(f"RI{i + 1:03d}" for i in range(strains)), loci, genotypes, trait, planted)


def geno_tsv(panel: Panel) -> bytes:
    """Write the genotypes: a header, then one locus a line: Chr, Locus, cM, and a letter for each strain."""
    lines = ["\t".join(("Chr", "Locus", "cM", *panel.strains))]
    lines += (
        "\t".join((locus.chromosome, locus.name, locus.centimorgan, *letters))
        for locus, letters in zip(panel.loci, panel.genotypes, strict=True)
    )
    return ("\n".join(lines) + "\n").encode("ascii")


def pheno_tsv(panel: Panel) -> bytes:
    """Write the trait: a header, then one strain a line: Strain, mg."""
    lines = ["Strain\tmg", *(f"{name}\t{mg}" for name, mg in zip(panel.strains, panel.trait_mg, strict=True))]
    return ("\n".join(lines) + "\n").encode("ascii")


def _draws(seed: str, purpose: str) -> Iterator[int]:
    """Draw without end: integers 0..2**64 - 1, four from each block of SHA-256 in counter mode."""
    block = 0
    while True:
        digest = hashlib.sha256(f"{seed}:{purpose}:{block}".encode()).digest()
        yield from (int.from_bytes(digest[at : at + 8], "big") for at in (0, 8, 16, 24))
        block += 1


def _place(seed: str, chromosome: str) -> list[Locus]:
    """Scatter loci evenly at random over a chromosome, one at each end, no two at the same place."""
    length = CHROMOSOMES[chromosome]
    scattered = (draw * length >> 64 for draw in islice(_draws(seed, f"loci {chromosome}"), length // SPACING))
    places = sorted({0, length, *scattered})
    return [Locus(chromosome, f"m{chromosome}.{i:03d}", place) for i, place in enumerate(places, 1)]


def _chances(loci: tuple[Locus, ...]) -> list[tuple[int, int]]:
    """Return for each locus how likely D is, of 2**64: after a B at the locus before it, and after a D.

    Along an inbred chromosome the letter is a Markov chain. Loci that recombine at rate r in one meiosis differ in a
    strain inbred by sib mating with probability 4r/(1+6r). On the X, which the B mother gives twice as often, a
    strain is D with probability 1/3, and the chain changes B to D with 2r/(1+4r), D to B with 4r/(1+4r).
    For a distance of d Morgan, r = d(1 - d): Haldane's (1 - exp(-2d))/2 up to 2d³/3, without leaving the integers.

    Source: Haldane and Waddington 1931, Genetics 16:357-374; Broman 2005, Genetics 169:1133-1146.
    """
    chances = []
    before: Locus | None = None
    for here in loci:
        x = here.chromosome == "X"
        if before is None or before.chromosome != here.chromosome:
            first = (1 << 64) // (3 if x else 2)
            chances.append((first, first))
        else:
            distance = here.position - before.position
            r, one = distance * (100_000 - distance), 10**10
            change = (4 * r << 64) // (one + (4 if x else 6) * r)
            chances.append((change // 2 if x else change, (1 << 64) - change))
        before = here
    return chances


def _breed(seed: str, strain: int, chances: list[tuple[int, int]]) -> Iterator[str]:
    """Walk one strain's genome and yield B or D at each locus."""
    is_d = False
    for draw, chance in zip(_draws(seed, f"strain {strain}"), chances, strict=False):
        is_d = draw < chance[is_d]
        yield "D" if is_d else "B"


def _plant(seed: str, loci: tuple[Locus, ...]) -> tuple[Locus, ...]:
    """Choose one locus for each effect, on different autosomes."""
    planted: list[Locus] = []
    draws = _draws(seed, "planted")
    while len(planted) < len(EFFECTS_MG):
        locus = loci[next(draws) * len(loci) >> 64]
        if locus.chromosome not in {"X", *(other.chromosome for other in planted)}:
            planted.append(locus)
    return tuple(planted)
