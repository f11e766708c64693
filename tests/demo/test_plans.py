"""Plans: what they ask for is what the server takes, and running them gives the right report."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from gnexec.core.terms import Needs, Redundancy, check_needs, resolve_redundancy
from gnexec.demo import panel, plans, serial
from gnexec.demo.plan import Plan, Produced
from gnexec.errors import BadConfiguration
from tests.requirements import shared_data


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Return a folder of seven texts, one of them in a folder within."""
    folder = tmp_path / "texts"
    (folder / "within").mkdir(parents=True)
    for i in range(6):
        (folder / f"-{i} text; rm *.txt").write_text(f"word{i} and another")
    (folder / "within" / "last").write_text("ÄÖÜ")
    (folder / "link").symlink_to("/etc/hostname")
    return folder


def plans_of(tmp_path: Path, texts: Path) -> tuple[Plan, ...]:
    """Return the two plans that need nothing but Python."""
    return (
        plans.permutation_plan(tmp_path, python=sys.executable, permutations=40, jobs=4),
        plans.words_plan(texts, python=sys.executable, jobs=3),
    )


def test_plan_jobs_have_unique_names_and_terms_the_server_takes(tmp_path: Path, texts: Path) -> None:
    """Needs and redundancy pass the core's own checks; two replicas must agree; files to upload are there."""
    for plan in plans_of(tmp_path, texts):
        names = [job["name"] for job in plan.jobs]
        assert len(set(names)) == len(names)
        done: set[str] = set()
        for stage in plan.stages:
            for job in stage.jobs:
                check_needs(msgspec.convert(job["needs"], Needs))
                redundancy = resolve_redundancy(msgspec.convert(job["redundancy"], Redundancy))
                assert (redundancy.replicas, redundancy.quorum) == (2, 2)
                assert job["argv"][0] == sys.executable
                assert job["argv"][1] in job["inputs"]
                assert job["outputs"]
                for source in job["inputs"].values():
                    assert source.job in done if isinstance(source, Produced) else source.is_file()
            done |= {job["name"] for job in stage.jobs}


def test_permutation_plan_of_the_demo_is_20_jobs_for_1000_permutations(tmp_path: Path) -> None:
    """The ranges follow each other without gap or overlap; the first job scans as well."""
    plan = plans.permutation_plan(tmp_path, python="python3")
    for i, job in enumerate(plan.jobs):
        assert f" --from {50 * i} --to {50 * i + 50} " in " ".join(job["argv"])
    assert len(plan.jobs) == 20
    assert [job["outputs"] for job in plan.jobs] == [["best.tsv", "curve.tsv"]] + [["best.tsv"]] * 19
    assert (tmp_path / "geno.tsv").read_bytes() == panel.geno_tsv(panel.generate(plans.SEED))


def test_permutation_plan_run_serially_finds_the_planted_qtl(tmp_path: Path) -> None:
    """The report names the planted place; one job or four, uneven shares or even, the facts are the same."""
    plan = plans.permutation_plan(tmp_path, python=sys.executable, permutations=42, jobs=4)
    outputs = serial.run(plan)
    report = plan.combine(outputs)
    assert report.facts["planted_found"] is True
    assert report.facts["significant"] is True
    assert report.facts["peak"] == {"chromosome": "8", "locus": "m8.169", "centimorgan": "68.296", "lod": "6.8280"}
    assert "rank 40 from below" in report.text
    assert max(map(len, report.text.splitlines())) <= 80
    assert json.loads(report.files["result.json"]) == report.facts
    ET.fromstring(report.files["lod.svg"])  # noqa: S314 - our own output
    whole = plans.permutation_plan(tmp_path, python=sys.executable, permutations=42, jobs=1)
    assert whole.combine(serial.run(whole)) == report


def test_permutation_plan_with_a_lost_or_swapped_output_is_refused(tmp_path: Path) -> None:
    """A report is made of all permutations or not at all."""
    plan = plans.permutation_plan(tmp_path, python=sys.executable, permutations=2, jobs=2)
    outputs = {name: dict(files) for name, files in serial.run(plan).items()}
    outputs["permutations-02"]["best.tsv"] = outputs["permutations-01"]["best.tsv"]
    with pytest.raises(ValueError, match="twice"):
        plan.combine(outputs)


@pytest.mark.parametrize(("permutations", "jobs"), [(0, 0), (5, 0), (3, 4)])
def test_permutation_plan_that_cannot_be_shared_out_is_refused(tmp_path: Path, permutations: int, jobs: int) -> None:
    """No empty jobs."""
    with pytest.raises(BadConfiguration, match="shared out"):
        plans.permutation_plan(tmp_path, python="python3", permutations=permutations, jobs=jobs)


def test_words_plan_gives_texts_neutral_names_and_follows_no_links(texts: Path) -> None:
    """No file name reaches a command line; a link out of the folder is not uploaded."""
    counting, adding = plans.words_plan(texts, python="python3", jobs=3).stages
    given = [path for job in counting.jobs for path in job["inputs"] if path != "words.py"]
    assert given == [f"text-{i:05d}.txt" for i in range(7)]
    assert len(counting.jobs) == 3
    assert [source for path, source in adding.jobs[0]["inputs"].items() if path != "words.py"] == [
        Produced(f"words-{i:02d}", "counts.json") for i in (1, 2, 3)
    ]


@pytest.mark.parametrize("jobs", [1, 3, 20])
def test_words_plan_run_serially_gives_the_same_sum_however_shared(texts: Path, jobs: int) -> None:
    """The sum of the parts is the count of the whole."""
    plan = plans.words_plan(texts, python=sys.executable, jobs=jobs)
    facts = plan.combine(serial.run(plan)).facts
    assert (facts["files"], facts["words"], facts["tokens"], facts["distinct"]) == (7, 19, 18, 3)


def test_words_plan_over_reference_texts_gives_the_reference() -> None:
    """116 texts in 20 jobs and one that adds up: the digest of all counts."""
    data = shared_data("text-gn-issues")
    plan = plans.words_plan(data / "files", python=sys.executable)
    report = plan.combine(serial.run(plan))
    expected = json.loads((data / "ref" / "total.json").read_bytes())
    assert report.facts["sha256_counts"] == expected["sha256_canonical_counts"]
    assert report.facts["words"] == expected["words_whitespace"]
    assert max(map(len, report.text.splitlines())) <= 80
    assert len(plan.jobs) == 21


def test_words_plan_of_no_texts_is_refused(tmp_path: Path) -> None:
    """An empty or absent folder is a mistake to be told."""
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BadConfiguration, match="no files"):
            plans.words_plan(folder, python="python3")


def test_serial_run_of_a_failing_program_raises(tmp_path: Path) -> None:
    """A reference run that went wrong is never a reference."""
    plan = plans.permutation_plan(tmp_path, python=sys.executable, permutations=1, jobs=1)
    (tmp_path / "pheno.tsv").write_text("Strain\ty\n")
    with pytest.raises(subprocess.CalledProcessError):
        serial.run(plan)


def test_serial_differences_name_the_job_and_the_output() -> None:
    """Changed, missing and added outputs are each named."""
    reference = {"a": {"x": b"1", "y": b"2"}, "b": {"x": b"3"}}
    assert serial.differences(reference, reference) == []
    assert serial.differences({"a": {"x": b"1", "y": b"9"}}, reference) == [
        "a: y: the bytes differ",
        "b: x is in one run only",
    ]
