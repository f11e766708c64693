"""GEMMA over the BXD strains, run for real and compared with reference results."""

from __future__ import annotations

import csv
import hashlib
import sys
from pathlib import Path

import pytest

from gnexec.demo import gemma, plans, serial
from gnexec.demo.compare import compare_assoc
from gnexec.demo.plan import Outputs, Plan
from gnexec.errors import BadConfiguration
from tests.requirements import missing, require, shared_data


def reference(name: str) -> list[dict[str, str]]:
    """Read a table of reference results."""
    with (shared_data("gemma-bxd") / "ref" / name).open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def sha256(data: bytes) -> str:
    """Return the digest as the reference tables write it."""
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def found() -> gemma.Gemma:
    """Return GEMMA with the shared copy of its example data, which has the same names as Debian's."""
    require("gemma", "gemma")
    return gemma.find(shared_data("gemma-bxd"))


@pytest.fixture(scope="module")
def traits20(found: gemma.Gemma, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Outputs]:
    """Return the plan for 20 published traits, and its outputs from a serial run."""
    traits = shared_data("gemma-bxd") / "traits20.pheno.txt"
    plan = plans.gemma_plan(tmp_path_factory.mktemp("gemma"), found, traits=traits)
    return plan, serial.run(plan)


def test_gemma_kinship_is_the_reference_byte_by_byte(traits20: tuple[Plan, Outputs]) -> None:
    """The named kernel and one thread give the reference matrix."""
    first = reference("lmm4_sha256_by_cpu_kernel.tsv")[0]
    assert first["openblas_coretype"] == "Prescott"
    assert sha256(traits20[1]["kinship"]["K.cXX.txt"]) == first["sha256_K"]


def test_gemma_on_20_traits_gives_the_reference_bytes_and_top_snps(traits20: tuple[Plan, Outputs]) -> None:
    """Every trait's table hashes to the reference; its top SNP, place, p-value and ties are read from it."""
    plan, outputs = traits20
    expected = reference("traits20_lmm9.tsv")
    assert [job["name"] for job in plan.stages[1].jobs] == [f"trait-{int(row['column']):03d}" for row in expected]
    for row, job in zip(expected, plan.stages[1].jobs, strict=True):
        assoc = outputs[job["name"]]["G.assoc.txt"]
        assert sha256(assoc) == row["sha256_prescott_1thr"], row["trait"]
        hit = gemma.top_hit(assoc)
        assert (hit.snp, hit.chromosome, hit.position) == (row["top_rs"], row["chr"], int(row["ps"])), row["trait"]
        assert (hit.p_lrt, hit.tied) == (row["p_lrt"], int(row["n_tied"])), row["trait"]
    report = plan.combine(outputs)
    assert "rs30336558             9    74.557  9.887914e-29     6" in report.text
    assert max(map(len, report.text.splitlines())) <= 80


def test_gemma_on_another_blas_kernel_is_an_honest_difference(
    traits20: tuple[Plan, Outputs], found: gemma.Gemma, tmp_path: Path
) -> None:
    """The same trait on the Nehalem kernel: the comparator accepts it, and a serial check says nothing."""
    traits = shared_data("gemma-bxd") / "traits20.pheno.txt"
    one_trait = tmp_path / "one.txt"
    one_trait.write_text("".join(line.split("\t")[0] + "\n" for line in traits.read_text().splitlines()))
    plan = plans.gemma_plan(tmp_path, found, traits=one_trait)
    for job in plan.jobs:
        job["env"]["OPENBLAS_CORETYPE"] = "Nehalem"
    outputs = serial.run(plan)
    theirs = traits20[1]["trait-001"]["G.assoc.txt"]
    assert outputs["trait-001"]["G.assoc.txt"] != theirs
    assert compare_assoc(outputs["trait-001"]["G.assoc.txt"], theirs).equal
    mine = {name: traits20[1][name] for name in ("kinship", "trait-001")}
    assert serial.differences(outputs, mine) == []
    swapped = {**mine, "trait-001": traits20[1]["trait-002"]}
    assert [line.split(":")[0] for line in serial.differences(outputs, swapped)] == ["trait-001"]


def test_gemma_permutations_are_the_reference(found: gemma.Gemma, tmp_path: Path) -> None:
    """Permuted trait files hash to the reference, and so do GEMMA's results on the first two of them."""
    expected = reference("permutations20_lmm9.tsv")
    pheno = found.pheno.read_bytes()
    for row in expected:
        assert sha256(gemma.permuted(pheno, "gnexec-dev", int(row["k"]))) == row["sha256_pheno"]
    plan = plans.gemma_plan(tmp_path, found, seed="gnexec-dev", permutations=2)
    outputs = serial.run(plan)
    for row in expected[:2]:
        assoc = outputs[f"permuted-{int(row['k']):02d}"]["G.assoc.txt"]
        assert sha256(assoc) == row["sha256_assoc"]
        assert (gemma.top_hit(assoc).snp, gemma.top_hit(assoc).p_lrt) == (row["rs"], row["min_p_lrt"])
    facts = plan.combine(outputs).facts
    least = gemma.top_hit(outputs["trait"]["G.assoc.txt"]).p_lrt
    better = sum(float(row["min_p_lrt"]) <= float(least) for row in expected[:2])
    assert facts["p_value"] == f"{1 + better}/3"


def test_gemma_example_of_debian_is_the_shared_copy() -> None:
    """Where Debian's gemma-doc is installed, what `gnexec demo gemma` reads is what the reference was made from."""
    require("gemma", "gemma gemma-doc")
    try:
        debian = gemma.find()
    except BadConfiguration as err:
        missing(str(err))
    ours = gemma.find(shared_data("gemma-bxd"))
    assert debian.pheno.read_bytes() == ours.pheno.read_bytes()
    assert gemma.unpacked_snps(debian) == gemma.unpacked_snps(ours)


def test_gemma_missing_names_both_packages(tmp_path: Path) -> None:
    """Neither the program nor the data: one line to copy."""
    with pytest.raises(BadConfiguration, match="apt-get install --no-install-recommends gemma gemma-doc"):
        gemma.find(tmp_path, which=lambda _: None)


def test_gemma_data_missing_names_the_data_package_and_slim_images(tmp_path: Path) -> None:
    """Debian slim leaves documentation out even of an installed package; that is said."""
    with pytest.raises(BadConfiguration, match=r"install --no-install-recommends gemma-doc .*slim"):
        gemma.find(tmp_path, which=lambda _: sys.executable)


def test_gemma_program_missing_names_the_program_package_only(tmp_path: Path) -> None:
    """What is there is not asked for."""
    for name in (gemma.GENO, gemma.PHENO, gemma.SNPS + ".gz"):
        (tmp_path / name).touch()
    with pytest.raises(BadConfiguration, match=r"not installed: apt-get install --no-install-recommends gemma$"):
        gemma.find(tmp_path, which=lambda _: None)


def test_permuted_trait_moves_measured_values_only() -> None:
    """NA stays where it is, and every value is kept."""
    pheno = b"1\nNA\n2\n3\nNA\n4\n"
    moved = gemma.permuted(pheno, "seed", 3).splitlines()
    assert [i for i, line in enumerate(moved) if line == b"NA"] == [1, 4]
    assert sorted(moved) == sorted(pheno.splitlines())
    assert any(gemma.permuted(pheno, "seed", k) != pheno for k in range(5))


@pytest.mark.parametrize("pheno", [b"", b"\n\n", b"1 2\n3\n"])
def test_traits_of_ragged_or_no_columns_are_refused(pheno: bytes) -> None:
    """A file that GEMMA would misread is refused before anything is sent out."""
    with pytest.raises(BadConfiguration, match="same number of columns"):
        gemma.columns(pheno)


@pytest.mark.parametrize(
    "assoc",
    [
        b"",
        b"chr\trs\tps\n",
        b"chr\trs\tps\tp_lrt\n",
        b"chr\trs\tps\tp_lrt\n1\trs1\t5\tnan\n",
        b"chr\trs\tps\tp_lrt\n1\trs1\t5\n",
        b"chr\trs\tps\tp_lrt\n1\trs\x1b[2J\t5\t0.5\n",
        b"chr\trs\tps\tp_lrt\n1\trs1\tfive\t0.5\n",
        b"\xff",
    ],
)
def test_top_hit_of_what_is_no_table_is_refused(assoc: bytes) -> None:
    """A result that cannot be read is an error, not a hit."""
    with pytest.raises(ValueError, match=r"\S"):
        gemma.top_hit(assoc)
