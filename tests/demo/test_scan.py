"""`scan.py`, run as volunteers run it, against a slow oracle and against reference results of real traits."""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.demo import scan
from gnexec.demo.threshold import SIGNIFICANT, order_statistic, parse_best
from tests.demo import oracle
from tests.requirements import shared_data

PROGRAM = Path(scan.__file__)
DECIMAL_IN_PYTHON = "import sys, runpy; sys.modules['_decimal'] = None; runpy.run_path('scan.py', run_name='__main__')"


def run(
    folder: Path, *arguments: str, python: Sequence[str] = (sys.executable, str(PROGRAM)), code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run the program in `folder` on its geno.tsv and pheno.tsv."""
    argv = [*python, "--geno", "geno.tsv", "--pheno", "pheno.tsv", *arguments]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def write(folder: Path, geno: Mapping[str, str], trait: Mapping[str, str]) -> Path:
    """Write two tables: locus name to letters, strain name to value (one strain for each letter)."""
    lines = ["\t".join(("Chr", "Locus", "cM", *trait))]
    lines += ["\t".join(("1", name, str(i), *letters)) for i, (name, letters) in enumerate(geno.items())]
    (folder / "geno.tsv").write_text("\n".join(lines) + "\n")
    (folder / "pheno.tsv").write_text("Strain\ty\n" + "".join(f"{name}\t{value}\n" for name, value in trait.items()))
    return folder


def rows(path: Path) -> list[list[str]]:
    """Read a table without its header."""
    return [line.split("\t") for line in path.read_text().splitlines()[1:]]


SMALL = {"a": "BBBDDDBD", "b": "BDBDBDBD", "c": "BHHDBDBD", "same": "BBBBBBBB", "mirror": "DDDBBBDB"}
VALUES = dict(zip("stuvwxyz", ("1", "2.5", "-3", "4", "5.25", "60e-1", "0", "8.000001"), strict=True))

panels = st.integers(3, 9).flatmap(
    lambda n: st.tuples(
        st.lists(st.text("BHD", min_size=n, max_size=n), min_size=1, max_size=6),
        st.lists(st.integers(-1000, 1000), min_size=n, max_size=n).filter(lambda values: len(set(values)) > 1),
    )
)


@given(panel=panels, k=st.integers(0, 50))
def test_scan_of_any_panel_equals_the_slow_oracle(panel: tuple[list[str], list[int]], k: int) -> None:
    """Each locus's LOD, and the best LOD of a permutation, are what the definition gives, H included."""
    letters, values = panel
    n = len(values)
    trait = [Fraction(value) for value in values]
    with tempfile.TemporaryDirectory() as name:
        named = {f"s{i}": str(value) for i, value in enumerate(values)}
        folder = write(Path(name), {f"m{i}": row for i, row in enumerate(letters)}, named)
        read = scan.read_panel(folder / "geno.tsv", folder / "pheno.tsv")
    for row, line in zip(letters, scan.curve(read), strict=True):
        assert oracle.is_lod(line.split("\t")[3], n, oracle.r_squared(row, trait))
    shuffled = [trait[i] for i in oracle.order("seed", k, n)]
    best = scan.best_lod(scan.group(read.loci), scan.shuffle(read.trait, "seed", k))
    assert oracle.is_lod(best, n, max(oracle.r_squared(row, shuffled) for row in letters))


def test_scan_shared_out_over_jobs_gives_the_rows_of_one_job(tmp_path: Path) -> None:
    """Where a range is cut does not show in what is written."""
    write(tmp_path, SMALL, VALUES)
    run(tmp_path, "--seed", "s", "--from", "0", "--to", "10")
    whole = rows(tmp_path / "best.tsv")
    run(tmp_path, "--seed", "s", "--from", "0", "--to", "3", "--out", "one.tsv")
    run(tmp_path, "--seed", "s", "--from", "3", "--to", "10", "--out", "two.tsv")
    assert rows(tmp_path / "one.tsv") + rows(tmp_path / "two.tsv") == whole
    assert [row[0] for row in whole] == [str(k) for k in range(10)]


def test_scan_without_permutations_writes_the_curve_and_an_empty_table(tmp_path: Path) -> None:
    """`--from 0 --to 0 --scan` is the scan alone; a locus that does not vary has LOD 0, mirrored ones the same LOD."""
    write(tmp_path, SMALL, VALUES)
    run(tmp_path, "--seed", "s", "--from", "0", "--to", "0", "--scan", "curve.tsv")
    lods = {row[1]: row[3] for row in rows(tmp_path / "curve.tsv")}
    assert (tmp_path / "best.tsv").read_bytes() == b"Permutation\tLOD\n"
    assert lods["same"] == "0.0000"
    assert lods["a"] == lods["mirror"] != lods["b"]


def test_scan_of_a_wholly_explained_trait_says_inf(tmp_path: Path) -> None:
    """r² = 1 is recognised exactly, where floating point would print noise."""
    write(tmp_path, {"m": "BBDDD"}, {"a": "0.1", "b": "0.1", "c": "0.3", "d": "0.3", "e": "0.3"})
    run(tmp_path, "--seed", "s", "--from", "0", "--to", "1", "--scan", "curve.tsv")
    assert rows(tmp_path / "curve.tsv") == [["1", "m", "0", "inf"]]


def test_scan_in_another_unit_gives_the_same_bytes(tmp_path: Path) -> None:
    """A LOD has no unit: a shifted and scaled trait gives the same tables."""
    told = []
    for name, values in (("one", [1, 5, 2, 9, 4, 7, 7, 3]), ("two", [1300, 1700, 1400, 2100, 1600, 1900, 1900, 1500])):
        folder = tmp_path / name
        folder.mkdir()
        write(folder, SMALL, dict(zip("stuvwxyz", map(str, values), strict=True)))
        run(folder, "--seed", "s", "--from", "0", "--to", "5", "--scan", "curve.tsv")
        told.append([(folder / file).read_bytes() for file in ("best.tsv", "curve.tsv")])
    assert told[0] == told[1]


def test_scan_with_the_other_decimal_implementation_gives_the_same_bytes(tmp_path: Path) -> None:
    """Python's two implementations of `decimal`, in C and in Python, agree: the logarithm is fixed by specification."""
    write(tmp_path, SMALL, VALUES)
    run(tmp_path, "--seed", "s", "--from", "0", "--to", "20", "--scan", "c.tsv", "--out", "c.best.tsv")
    (tmp_path / "scan.py").write_bytes(PROGRAM.read_bytes())
    python = (sys.executable, "-c", DECIMAL_IN_PYTHON)
    run(tmp_path, "--seed", "s", "--from", "0", "--to", "20", "--scan", "p.tsv", "--out", "p.best.tsv", python=python)
    assert (tmp_path / "c.tsv").read_bytes() == (tmp_path / "p.tsv").read_bytes()
    assert (tmp_path / "c.best.tsv").read_bytes() == (tmp_path / "p.best.tsv").read_bytes()


def test_scan_reports_progress_as_it_goes(tmp_path: Path) -> None:
    """Ten lines at most, the last one says that all is done."""
    write(tmp_path, SMALL, VALUES)
    lines = run(tmp_path, "--seed", "s", "--from", "0", "--to", "25").stdout.splitlines()
    assert lines[0] == "strains 8 loci 5 patterns 4"
    assert lines[-1] == "progress 25/25"
    assert len(lines) == 11


def test_scan_leaves_out_strains_without_a_value(tmp_path: Path) -> None:
    """NA, x and nothing count as not measured; the result is that of the measured strains alone."""
    write(tmp_path, {"m": "BDBDBDH"}, {"a": "1", "b": "NA", "c": "3", "d": "x", "e": "7", "f": "9", "g": ""})
    run(tmp_path, "--seed", "s", "--from", "0", "--to", "4", "--scan", "curve.tsv")
    some = [(tmp_path / file).read_bytes() for file in ("best.tsv", "curve.tsv")]
    write(tmp_path, {"m": "BBBD"}, {"a": "1", "c": "3", "e": "7", "f": "9"})
    run(tmp_path, "--seed", "s", "--from", "0", "--to", "4", "--scan", "curve.tsv")
    assert some == [(tmp_path / file).read_bytes() for file in ("best.tsv", "curve.tsv")]


def test_scan_reads_genenetwork_genotypes(tmp_path: Path) -> None:
    """Comment lines, `@` lines and a Mb column, as GeneNetwork's .geno files have them, are understood."""
    write(tmp_path, {"m": "BDB"}, {"a": "1", "b": "2", "c": "4"})
    (tmp_path / "geno.tsv").write_text("# note\n@name:BXD\nChr\tLocus\tcM\tMb\ta\tb\tc\n1\tm\t0\t3.1\tB\tD\tB\n")
    run(tmp_path, "--seed", "s", "--from", "0", "--to", "0", "--scan", "curve.tsv")
    assert rows(tmp_path / "curve.tsv")[0][:3] == ["1", "m", "0"]


@pytest.mark.parametrize(
    ("geno", "pheno", "why"),
    [
        ("", "Strain\ty\na\t1\nb\t2\nc\t3\n", "header"),
        ("Chr\tLocus\tcM\ta\tb\ta\n", "Strain\ty\na\t1\n", "header"),
        ("Chr\tLocus\tcM\ta\tb\tc\n1\tm\t0\tB\tD\tU\n", "Strain\ty\na\t1\nb\t2\nc\t3\n", "one letter"),
        ("Chr\tLocus\tcM\ta\tb\tc\n1\tm\t0\tB\tD\n", "Strain\ty\na\t1\nb\t2\nc\t3\n", "one letter"),
        ("Chr\tLocus\tcM\ta\tb\tc\n1\tm\t0\tBD\t\tB\n", "Strain\ty\na\t1\nb\t2\nc\t3\n", "one letter"),
        ("Chr\tLocus\tcM\ta\tb\tc\n", "Strain\ty\na\t1\nb\t2\nc\tnan\n", "number"),
        ("Chr\tLocus\tcM\ta\tb\tc\n", "Strain\ty\na\t1\nb\t2\nc\tInfinity\n", "number"),
        ("Chr\tLocus\tcM\ta\tb\tc\n", "Strain\ty\na\t1\nb\t2\nc\tfive\n", "number"),
        ("Chr\tLocus\tcM\ta\tb\tc\n", "Strain\ty\na\t1\nb\t2\nz\t3\n", "no genotypes"),
        ("Chr\tLocus\tcM\ta\tb\tc\n", "Strain\ty\na\t1\nb\t2\nb\t3\n", "twice"),
        ("Chr\tLocus\tcM\ta\tb\tc\n", "Strain\ty\na\t1\nb\t2\nc\tNA\n", "3 strains"),
        ("Chr\tLocus\tcM\ta\tb\tc\n", "Strain\ty\na\t2\nb\t2\nc\t2\n", "different values"),
    ],
)
def test_scan_of_unusable_tables_fails_and_says_why(tmp_path: Path, geno: str, pheno: str, why: str) -> None:
    """Exit status 1, one sentence on stderr, and no output that could be mistaken for a result."""
    (tmp_path / "geno.tsv").write_text(geno)
    (tmp_path / "pheno.tsv").write_text(pheno)
    assert why in run(tmp_path, "--seed", "s", "--from", "0", "--to", "1", code=1).stderr
    assert not (tmp_path / "best.tsv").exists()


def test_scan_with_a_backward_range_is_a_usage_error(tmp_path: Path) -> None:
    """Exit status 2, before anything is read."""
    assert "0 <= A <= B" in run(tmp_path, "--seed", "s", "--from", "3", "--to", "2", code=2).stderr


@pytest.mark.parametrize("module", ["scan", "words"])
def test_volunteer_program_stands_alone_on_python_3_9(module: str, tmp_path: Path) -> None:
    """It parses as Python 3.9, imports the standard library only, and starts isolated from any installed package."""
    source = PROGRAM.with_name(f"{module}.py").read_bytes()
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {str(name).split(".")[0] for name in imported} <= sys.stdlib_module_names
    (tmp_path / "program.py").write_bytes(source)
    subprocess.run(
        [sys.executable, "-I", "-S", "program.py", "--help"], cwd=tmp_path, capture_output=True, check=True, env={}
    )


def test_scan_in_another_environment_gives_the_same_bytes(tmp_path: Path) -> None:
    """Neither locale, time zone nor hash seed reaches the results."""
    write(tmp_path, SMALL, VALUES)
    told = set()
    for number, env in enumerate(({}, {"LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "5"})):
        argv = [sys.executable, str(PROGRAM), "--geno", "geno.tsv", "--pheno", "pheno.tsv", "--seed", "ü"]
        argv += ["--from", "0", "--to", "9", "--out", f"{number}.tsv"]
        subprocess.run(argv, cwd=tmp_path, env={**os.environ, **env}, capture_output=True, check=True)
        told.add((tmp_path / f"{number}.tsv").read_bytes())
    assert len(told) == 1


class Bxd:
    """The BXD panel and its published traits, from the shared reference data."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        with zipfile.ZipFile(data / "bxd.zip") as archive:
            geno, pmap, pheno = (self._table(archive, f"bxd_{name}.csv") for name in ("geno", "pmap", "pheno"))
        lines = ["\t".join(("Chr", "Locus", "cM", *geno[0][1:]))]
        lines += [
            "\t".join((row[1], row[0], row[2], *letters[1:])) for row, letters in zip(pmap[1:], geno[1:], strict=True)
        ]
        (folder / "geno.tsv").write_text("\n".join(lines) + "\n")
        self.traits, self.values = pheno[0], pheno[1:]

    @staticmethod
    def _table(archive: zipfile.ZipFile, name: str) -> list[list[str]]:
        text = archive.read(name).decode("utf-8")
        return list(csv.reader(io.StringIO("".join(line for line in text.splitlines(keepends=True) if line[0] != "#"))))

    def choose(self, trait: str) -> None:
        """Write the trait as pheno.tsv."""
        column = self.traits.index(trait)
        lines = [f"{row[0]}\t{'NA' if row[column] == '-' else row[column]}\n" for row in self.values]
        (self.folder / "pheno.tsv").write_text("Strain\ty\n" + "".join(lines))

    def reference(self, name: str) -> dict[str, dict[str, str]]:
        """Read a table of reference results by trait."""
        with (self.data / "ref" / name).open() as file:
            return {row["trait"]: row for row in csv.DictReader(file, delimiter="\t")}


@pytest.fixture(scope="module")
def bxd(tmp_path_factory: pytest.TempPathFactory) -> Bxd:
    """Return the BXD panel, written in the form that the program reads."""
    data = shared_data("bxd-panel")
    return Bxd(tmp_path_factory.mktemp("bxd"), data)


@pytest.mark.parametrize("trait", ["10002", "10678", "10710", "11280", "12942"])
def test_scan_of_bxd_trait_gives_the_reference_permutations(bxd: Bxd, trait: str) -> None:
    """100 permutations of a published trait hash to what a Python and a JavaScript program got."""
    expected = bxd.reference("portable_permutations.tsv")[trait]
    bxd.choose(trait)
    told = run(bxd.folder, "--seed", expected["seed"], "--from", "0", "--to", expected["perms"]).stdout
    assert told.startswith(f"strains {expected['n']} ")
    lods = [row[1] for row in rows(bxd.folder / "best.tsv")]
    assert lods[:5] == expected["first5"].split(",")
    assert hashlib.sha256("\n".join(lods).encode()).hexdigest() == expected["sha256_of_4dp_list"]
    numbers = [lod for _, lod in parse_best((bxd.folder / "best.tsv").read_bytes())]
    assert order_statistic(numbers, SIGNIFICANT) == Decimal(expected["lod95"])
    assert order_statistic(numbers, Fraction(37, 100)) == Decimal(expected["lod63"])


@pytest.mark.parametrize("trait", ["10002", "10004", "10014", "10678", "11280"])
def test_scan_of_bxd_trait_gives_the_reference_peak(bxd: Bxd, trait: str) -> None:
    """The top marker, its LOD and the number of markers tied with it are those of NumPy and GEMMA."""
    expected = bxd.reference("lod_additive_even_traits.tsv")[trait]
    bxd.choose(trait)
    run(bxd.folder, "--seed", "s", "--from", "0", "--to", "0", "--scan", "curve.tsv")
    curve = rows(bxd.folder / "curve.tsv")
    top = max(curve, key=lambda row: float(row[3]))
    assert (top[0], top[1]) == (expected["chr"], expected["top_marker"])
    assert float(top[2]) == pytest.approx(float(expected["mb"]), abs=1e-6)
    assert float(top[3]) == pytest.approx(float(expected["lod"]), abs=0.51e-4)
    assert sum(row[3] == top[3] for row in curve) == int(expected["n_tied"])
