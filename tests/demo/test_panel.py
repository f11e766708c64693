"""The generated panel: the same bytes everywhere, and a panel as nature would make it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import groupby, pairwise

import pytest

from gnexec.demo.panel import CHROMOSOMES, EFFECTS_MG, Panel, generate, geno_tsv, pheno_tsv

GOLDEN = {
    "geno": "23ca06f9485c5dad500465c09a495d666027c2791271b0f1619aedcdd9b63f66",
    "pheno": "31878ecfe4c302ca020f3597a7e3a06394f034b44015d5d93685348b6553fa54",
}


@pytest.fixture(scope="module")
def panel() -> Panel:
    """Return the panel of the demo."""
    return generate("gnexec-demo")


@pytest.fixture(scope="module")
def large() -> Panel:
    """Return a panel of 400 strains, enough to see the laws behind it."""
    return generate("many", 400)


def test_panel_from_known_seed_gives_golden_bytes(panel: Panel) -> None:
    """Machines far apart must generate the same files: their digests are fixed."""
    assert hashlib.sha256(geno_tsv(panel)).hexdigest() == GOLDEN["geno"]
    assert hashlib.sha256(pheno_tsv(panel)).hexdigest() == GOLDEN["pheno"]


def test_panel_in_another_process_with_other_hash_seed_gives_same_bytes() -> None:
    """Neither the interpreter's hash seed nor the locale reaches the files."""
    code = (
        "import hashlib; from gnexec.demo.panel import *; p = generate('gnexec-demo');"
        "print(hashlib.sha256(geno_tsv(p)).hexdigest(), hashlib.sha256(pheno_tsv(p)).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C"}
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert told.split() == [GOLDEN["geno"], GOLDEN["pheno"]]


def test_panel_from_other_seed_differs() -> None:
    """A seed is a seed: another one gives other genotypes, another trait."""
    one, other = generate("a", 10), generate("b", 10)
    assert geno_tsv(one) != geno_tsv(other)
    assert one.trait_mg != other.trait_mg


def test_panel_with_two_strains_is_refused() -> None:
    """Two points make no regression."""
    with pytest.raises(ValueError, match="3 strains"):
        generate("a", 2)


def test_panel_map_covers_every_chromosome_from_end_to_end(panel: Panel) -> None:
    """Loci are in map order, distinct, and reach both ends of each mouse chromosome."""
    by_chromosome = {name: list(loci) for name, loci in groupby(panel.loci, key=lambda locus: locus.chromosome)}
    assert list(by_chromosome) == [*map(str, range(1, 20)), "X"]
    for name, loci in by_chromosome.items():
        assert (loci[0].position, loci[-1].position) == (0, CHROMOSOMES[name])
        assert all(a.position < b.position for a, b in pairwise(loci))
    assert len({locus.name for locus in panel.loci}) == len(panel.loci) > 3000


def test_panel_recombines_as_sib_mated_strains_do(large: Panel) -> None:
    """Over many strains, neighbours differ with 4r/(1+6r), a third of X is D, half of the autosomes."""
    changes = expected = 0.0
    for (a, row_a), (b, row_b) in pairwise(zip(large.loci, large.genotypes, strict=True)):
        if a.chromosome == b.chromosome != "X":
            d = (b.position - a.position) / 100_000
            r = d * (1 - d)
            expected += 400 * 4 * r / (1 + 6 * r)
            changes += sum(x != y for x, y in zip(row_a, row_b, strict=True))
    assert changes == pytest.approx(expected, rel=0.03)
    letters = {
        x: "".join(
            row for locus, row in zip(large.loci, large.genotypes, strict=True) if (locus.chromosome == "X") is x
        )
        for x in (True, False)
    }
    assert letters[True].count("D") / len(letters[True]) == pytest.approx(1 / 3, abs=0.05)
    assert letters[False].count("D") / len(letters[False]) == pytest.approx(1 / 2, abs=0.02)


def test_panel_trait_holds_the_planted_effects(large: Panel) -> None:
    """D and B strains differ at a planted locus by twice its effect, up to three standard errors of 120 mg."""
    rows = [large.genotypes[large.loci.index(locus)] for locus in large.planted]
    assert len({locus.chromosome for locus in large.planted}) == len(EFFECTS_MG)
    for effect, row in zip(EFFECTS_MG, rows, strict=True):
        means = {}
        for letter in "BD":
            values = [mg for mg, x in zip(large.trait_mg, row, strict=True) if x == letter]
            means[letter] = sum(values) / len(values)
        assert means["D"] - means["B"] == pytest.approx(2 * effect, abs=360)


def test_panel_files_are_small_plain_tables(panel: Panel) -> None:
    """A header, tabs, one line each, integers only in the trait; the two files name the same strains."""
    header, *loci = geno_tsv(panel).decode("ascii").splitlines()
    first, *values = pheno_tsv(panel).decode("ascii").splitlines()
    assert header.split("\t") == ["Chr", "Locus", "cM", *panel.strains]
    assert first.split("\t") == ["Strain", "mg"]
    assert [line.split("\t")[0] for line in values] == list(panel.strains)
    assert all(line.split("\t")[1].isdecimal() for line in values)
    assert len(loci) == len(panel.loci)
    assert set("".join(loci[0].split("\t")[3:])) <= {"B", "D"}
    assert len(geno_tsv(panel)) < 1_000_000
