"""The demos as a user runs them: real processes through the command line, their results, and what they leave behind."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree as ET

import psutil
import pytest

from gnexec.cli.demo import _interpreter
from gnexec.client import Client
from gnexec.demo import gemma, plans
from gnexec.demo.fleet import fleet
from gnexec.demo.plan import Job, Outputs, Plan, Report, Stage
from gnexec.demo.runner import JobFailed, Progress, run_plan
from gnexec.errors import BadConfiguration
from gnexec.ids import sha256_hex
from tests.requirements import missing, require, shared_data
from tests.worker.agents import until

GNEXEC = (sys.executable, "-m", "gnexec")
TRAITS = 6


@dataclass(frozen=True, slots=True)
class Ran:
    """How a demo ended."""

    status: int
    out: str
    err: str

    @property
    def facts(self) -> dict[str, Any]:
        """What it printed with --json: one line."""
        assert self.status == 0, self.err
        (line,) = self.out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found


def demo(folder: Path, *arguments: str, path: str | None = None) -> Ran:
    """Run a demo in a folder, to its end."""
    env = {"PATH": path or os.environ["PATH"], "HOME": str(folder), "NO_COLOR": "1"}
    ran = subprocess.run(
        [*GNEXEC, "demo", *arguments], capture_output=True, text=True, cwd=folder, env=env, check=False
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def test_demo_maps_the_planted_trait_and_verifies_its_log(tmp_path: Path) -> None:
    """The numbers are the same on every machine; the log is verified; the promise is made early and told."""
    ran = demo(tmp_path, "--json", "--output", "made")
    facts = ran.facts
    assert (facts["threshold"], facts["suggestive"], facts["p_value"]) == ("3.5363", facts["suggestive"], "1/1001")
    assert facts["peak"] == {
        "chromosome": "8",
        "locus": facts["peak"]["locus"],
        "centimorgan": "68.296",
        "lod": "6.8280",
    }
    assert facts["planted_found"]
    assert facts["log_verified"]
    assert (facts["log"]["level"], facts["log"]["withheld"], facts["log"]["statements"]) == ("full", 0, 40)
    assert facts["promised_s"] > 0
    assert facts["taken_s"] > 0
    assert "promised: about" in ran.err
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["lod.svg", "result.json"]
    assert ET.parse(tmp_path / "made" / "lod.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 -- ours
    kept = json.loads((tmp_path / "made" / "result.json").read_bytes())
    assert kept == {name: facts[name] for name in kept}


def test_demo_of_words_gives_the_reference_totals(tmp_path: Path) -> None:
    """All files of the shared texts, counted in shares and added up, are the totals of their README."""
    texts = shared_data("text-gn-issues")
    facts = demo(tmp_path, "words", str(texts / "files"), "--json").facts
    expected = json.loads((texts / "ref" / "total.json").read_bytes())
    assert {name: facts[name] for name in ("files", "bytes", "words", "tokens", "distinct")} == {
        "files": expected["files"],
        "bytes": expected["bytes"],
        "words": expected["words_whitespace"],
        "tokens": expected["alpha_tokens"],
        "distinct": expected["distinct"],
    }
    assert facts["sha256_counts"] == expected["sha256_canonical_counts"]
    assert facts["most_common"] == expected["top20"][: len(facts["most_common"])]
    assert facts["log_verified"]
    assert (tmp_path / "demo-out" / "counts.json").exists()


@pytest.fixture(scope="module")
def found() -> gemma.Gemma:
    """Return GEMMA with the shared copy of its example data."""
    require("gemma", "gemma")
    return gemma.find(shared_data("gemma-bxd"))


@pytest.fixture(scope="module")
def installed() -> None:
    """Make sure that GEMMA and its example data are where Debian puts them."""
    require("gemma", "gemma")
    if not (gemma.EXAMPLE / gemma.GENO).is_file():
        missing(f"{gemma.EXAMPLE} is not there: apt-get install gemma-doc")


def reference(name: str) -> list[dict[str, str]]:
    """Read a table of GEMMA's reference results."""
    with (shared_data("gemma-bxd") / "ref" / name).open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def first_traits(folder: Path, number: int) -> Path:
    """Write the first of the 20 reference traits to a file."""
    lines = (shared_data("gemma-bxd") / "traits20.pheno.txt").read_text().splitlines()
    made = folder / "traits.txt"
    made.write_text("".join("\t".join(line.split("\t")[:number]) + "\n" for line in lines))
    return made


@contextmanager
def passable() -> Iterator[Path]:
    """Have a folder through which the jobs' user gets, whoever runs the tests."""
    with TemporaryDirectory(prefix="gnexec-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run_with_fleet(plan: Plan, folder: Path, *flags: str) -> tuple[Outputs, Progress]:
    """Run a plan over a fleet of real processes."""
    with (
        fleet(folder, [*_interpreter()[1], *flags]) as running,
        Client(running.url, running.token) as client,
    ):

        def tend(*_: object) -> None:
            running.tend()

        return run_plan(client, plan, tend)


def test_gemma_by_two_owners_gives_the_reference_bytes(found: gemma.Gemma) -> None:
    """Kinship and every trait's table, agreed on by two owners, hash to the reference of a serial run."""
    with passable() as folder:
        plan = plans.gemma_plan(folder, found, traits=first_traits(folder, TRAITS))
        outputs, _ = run_with_fleet(plan, folder)
    kinship = reference("lmm4_sha256_by_cpu_kernel.tsv")[0]
    assert sha256_hex(outputs["kinship"][gemma.KINSHIP]) == kinship["sha256_K"]
    rows = reference("traits20_lmm9.tsv")[:TRAITS]
    tables = [outputs[f"trait-{int(row['column']):03d}"]["G.assoc.txt"] for row in rows]
    assert [sha256_hex(table) for table in tables] == [row["sha256_prescott_1thr"] for row in rows]
    hits = [gemma.top_hit(table) for table in tables]
    assert [(hit.snp, hit.p_lrt) for hit in hits] == [(row["top_rs"], row["p_lrt"]) for row in rows]


@pytest.mark.usefixtures("installed")
def test_demo_of_gemma_names_the_reference_top_snps(tmp_path: Path) -> None:
    """The command itself, with a file of two traits."""
    facts = demo(tmp_path, "gemma", "--traits", str(first_traits(tmp_path, 2)), "--json").facts
    rows = reference("traits20_lmm9.tsv")[:2]
    assert [(hit["snp"], hit["p_lrt"]) for hit in facts["hits"].values()] == [
        (row["top_rs"], row["p_lrt"]) for row in rows
    ]
    assert facts["log_verified"]


def test_demo_of_gemma_without_gemma_names_the_packages(tmp_path: Path) -> None:
    """Nothing is started; the sentence can be pasted into a shell."""
    ran = demo(tmp_path, "gemma", path=str(tmp_path))
    assert (ran.status, ran.out) == (1, "")
    assert "apt-get install --no-install-recommends gemma" in " ".join(ran.err.split())


def _one_job(argv: list[str], **more: Any) -> Plan:  # noqa: ANN401 -- fields of a job
    job: Job = {
        "name": "only",
        "argv": argv,
        "inputs": {},
        "outputs": ["stdout"],
        "env": {},
        "needs": plans.SMALL,
        "redundancy": {"replicas": 2, "quorum": 2},
        **more,  # type: ignore[typeddict-item]
    }
    return Plan("One job", (Stage("one", (job,)),), lambda _: Report("", "", {}, {}))


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        pytest.param(
            _one_job(["/bin/sh", "-c", "echo the cat is away >&2; exit 3"]),
            ["(only) failed: failure (exit 3)", "the cat is away"],
            id="fails",
        ),
        pytest.param(
            _one_job(["/bin/sh", "-c", "date +%N; cat /proc/sys/kernel/random/uuid"]),
            ["(only) cannot be decided", "attempt 1: success", "attempt 2: success"],
            id="never-agrees",
        ),
        pytest.param(
            _one_job(["true"], needs={**plans.SMALL, "memory_bytes": 1 << 50}),
            ["(only) cannot be decided", "offer too little memory"],
            id="fits-nowhere",
        ),
    ],
)
def test_plan_with_a_job_that_does_not_succeed_ends_with_the_reason(plan: Plan, said: list[str]) -> None:
    """It fails, its results never agree, or no worker here can take it: told, not waited for."""
    with passable() as folder, pytest.raises(JobFailed) as caught:
        run_with_fleet(plan, folder)
    assert [text for text in said if text not in str(caught.value)] == [], str(caught.value)


@pytest.mark.usefixtures("installed")
def test_demo_with_a_failing_job_exits_1_and_shows_its_stderr(tmp_path: Path) -> None:
    """GEMMA refuses a file of traits for another number of strains; what it says is shown, and nothing is written."""
    traits = tmp_path / "short.txt"
    traits.write_text("1.5\n2.5\n")
    ran = demo(tmp_path, "gemma", "--traits", str(traits), "--json")
    assert (ran.status, ran.out) == (1, "")
    assert "(trait-001) failed" in ran.err
    assert "It said:" in ran.err
    assert not (tmp_path / "demo-out").exists()


def _started(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "NO_COLOR": "1"}
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        return subprocess.Popen([*GNEXEC, "demo", *arguments], stdout=out, stderr=err, cwd=folder, env=env)


def _scanning(process: psutil.Process) -> list[psutil.Process]:
    """Return all that a demo has started, once jobs of it run; else nothing."""
    tree = process.children(recursive=True)
    return tree if any("scan.py" in " ".join(_words(child)) for child in tree) else []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _left(tree: list[psutil.Process], folder: str) -> list[str]:
    """Say what is left of a tree of processes, or speaks of the demo's own folder."""
    there = [process for process in tree if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    there += [process for process in psutil.process_iter() if any(folder in word for word in _words(process))]
    return [f"{process.pid} {' '.join(_words(process))}" for process in there]


def _folder(tree: list[psutil.Process]) -> str:
    """Find the demo's temporary folder on the command line of its server."""
    (data,) = {words[words.index("--data") + 1] for words in map(_words, tree) if "--data" in words}
    return str(Path(data).parent)


@pytest.mark.parametrize(
    ("signals", "status"),
    [
        pytest.param([signal.SIGINT], 130, id="interrupt"),
        pytest.param([signal.SIGINT, signal.SIGINT, signal.SIGTERM], 130, id="impatience"),
        pytest.param([signal.SIGTERM], 130, id="terminate"),
        pytest.param([signal.SIGKILL], -9, id="kill"),
    ],
)
def test_demo_that_is_stopped_leaves_no_process_behind(tmp_path: Path, signals: list[int], status: int) -> None:
    """In the middle of its jobs: the exit status tells of the interruption, and all it has started is gone."""
    process = _started(tmp_path)
    said = (tmp_path / "err").read_text
    tree: list[psutil.Process] = until(lambda: _scanning(psutil.Process(process.pid)), "a running job", said)
    folder = _folder(tree)
    for number in signals:
        process.send_signal(number)
    assert process.wait(60) == status, said()
    until(lambda: not _left(tree, folder), "the end of all processes", lambda: "\n".join(_left(tree, folder)))
    assert Path(folder).exists() == (signals == [signal.SIGKILL])
    shutil.rmtree(folder, ignore_errors=True)
    assert "Traceback" not in said()


def _has(said: Callable[[], str], text: str) -> bool:
    return text in said()


def test_demo_whose_processes_are_killed_goes_on_to_the_same_result(tmp_path: Path) -> None:
    """A server and a worker killed on the way are started again: the same numbers, and a log that is in order."""
    process = _started(tmp_path, "--json")
    said = (tmp_path / "err").read_text
    tree: list[psutil.Process] = until(lambda: _scanning(psutil.Process(process.pid)), "a running job", said)
    folder = _folder(tree)
    for victim, told in (("serve", "server was killed"), ("worker", "worker-ann was killed")):
        next(child for child in tree if victim in _words(child)).kill()
        until(partial(_has, said, told), "a restart", said)
    assert process.wait(120) == 0, said()
    facts = json.loads((tmp_path / "out").read_bytes())
    assert (facts["threshold"], facts["peak"]["lod"], facts["log"]["level"]) == ("3.5363", "6.8280", "full")
    until(lambda: not _left(tree, folder), "the end of all processes", lambda: "\n".join(_left(tree, folder)))
    assert not Path(folder).exists()


def test_fleet_whose_worker_gives_up_says_why() -> None:
    """A process that ends by itself is not started again and again: the run ends with its last words."""
    with passable() as folder, pytest.raises(BadConfiguration, match="no account nobody-of-that-name") as caught:
        _ = run_with_fleet(_one_job(["true"]), folder, "--run-as", "nobody-of-that-name")
    assert "worker-ann ended (exit status 1)" in str(caught.value)
