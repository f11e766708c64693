"""The three demos as plans: a permutation test, GEMMA over the BXD strains, words in a folder of texts.

Building a plan writes the generated inputs into a folder and touches no network. Every job asks for two replicas and
a quorum of two: the same bytes from two owners.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gnexec.demo import gemma, panel, reports, scan, threshold, words
from gnexec.demo.plan import Job, Needs, Outputs, Plan, Produced, Report, Stage
from gnexec.errors import BadConfiguration

SEED: Final = "gnexec-demo"
PERMUTATIONS: Final = 1000
JOBS: Final = 20
SMALL: Final = Needs(cores=1, memory_bytes=256 << 20, disk_bytes=64 << 20, wall_s=120, processes=8)
LARGE: Final = Needs(cores=1, memory_bytes=1 << 30, disk_bytes=64 << 20, wall_s=300, processes=8)


def permutation_plan(
    folder: Path, *, python: str, seed: str = SEED, permutations: int = PERMUTATIONS, jobs: int = JOBS
) -> Plan:
    """Plan the mapping of a planted trait: the first job also scans the trait as it is.

    Args:
        folder: an existing folder; `geno.tsv` and `pheno.tsv` are written into it.
        python: the interpreter as the worker's sandbox sees it.
        seed: makes the panel and the permutations.
        permutations: how many, at least `jobs`.
        jobs: how many jobs share them, 1 or more.

    Raises:
        BadConfiguration: fewer permutations than jobs, or no job.
    """
    if not 1 <= jobs <= permutations:
        msg = f"{permutations} permutations cannot be shared out over {jobs} jobs"
        raise BadConfiguration(msg)
    bred = panel.generate(seed)
    geno, pheno = folder / "geno.tsv", folder / "pheno.tsv"
    geno.write_bytes(panel.geno_tsv(bred))
    pheno.write_bytes(panel.pheno_tsv(bred))
    bounds = [permutations * i // jobs for i in range(jobs + 1)]
    names = [f"permutations-{i + 1:02d}" for i in range(jobs)]
    program = Path(scan.__file__)
    tables = ["--geno", "geno.tsv", "--pheno", "pheno.tsv", "--seed", seed]

    def job(i: int) -> Job:
        span = ["--from", str(bounds[i]), "--to", str(bounds[i + 1]), "--out", "best.tsv"]
        return _job(
            names[i],
            [python, "scan.py", *tables, *span, *(["--scan", "curve.tsv"] if i == 0 else [])],
            {"scan.py": program, "geno.tsv": geno, "pheno.tsv": pheno},
            ["best.tsv", *(["curve.tsv"] if i == 0 else [])],
        )

    def combine(outputs: Outputs) -> Report:
        best = [outputs[name]["best.tsv"] for name in names]
        return reports.of_mapping(threshold.combine(outputs[names[0]]["curve.tsv"], best, permutations), bred)

    stage = Stage(f"{permutations:,} permutations in {jobs} jobs", tuple(job(i) for i in range(jobs)))
    return Plan("Permutation test of a trait over a mouse panel", (stage,), combine)


def words_plan(texts: Path, *, python: str, jobs: int = JOBS) -> Plan:
    """Plan the counting of words in all files of a folder and of the folders in it, then one job that adds up.

    Args:
        texts: a folder; symbolic links in it are left out.
        python: the interpreter as the worker's sandbox sees it.
        jobs: into how many the files are shared out at most, 1 or more.

    Raises:
        BadConfiguration: there is no such folder, or no file in it.
    """
    files = sorted(path for path in texts.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        msg = f"there are no files to count words of in {texts}"
        raise BadConfiguration(msg)
    shares = min(jobs, len(files))
    bounds = [len(files) * i // shares for i in range(shares + 1)]
    program = Path(words.__file__)

    def count(i: int) -> Job:
        share = {f"text-{n:05d}.txt": files[n] for n in range(bounds[i], bounds[i + 1])}
        argv = [python, "words.py", "--out", "counts.json", *share]
        return _job(f"words-{i + 1:02d}", argv, {"words.py": program, **share}, ["counts.json"])

    counting = tuple(count(i) for i in range(shares))
    parts = {f"{job['name']}.json": Produced(job["name"], "counts.json") for job in counting}
    argv = [python, "words.py", "--reduce", "--out", "counts.json", *parts]
    adding = _job("words-total", argv, {"words.py": program, **parts}, ["counts.json"])

    def combine(outputs: Outputs) -> Report:
        return reports.of_words(outputs["words-total"]["counts.json"])

    stages = (
        Stage(f"count {len(files):,} files in {shares} jobs", counting),
        Stage("add the counts up", (adding,)),
    )
    return Plan("Words in a folder of texts", stages, combine)


def gemma_plan(
    folder: Path, found: gemma.Gemma, *, seed: str = SEED, permutations: int = 20, traits: Path | None = None
) -> Plan:
    """Plan GEMMA: the strains' kinship first, then one job for each trait.

    Args:
        folder: an existing folder for generated inputs.
        found: where GEMMA and its example data are.
        seed: makes the permutations.
        permutations: how many permutations of the example trait are mapped beside it, 0 or more.
        traits: a file of traits (BIMBAM phenotypes, a column each, a line for each of the 198 strains) to map
            instead of the example trait and its permutations.

    Raises:
        BadConfiguration: the file of traits has no columns, or lines of different lengths.
    """
    snps = folder / gemma.SNPS
    snps.write_bytes(gemma.unpacked_snps(found))
    common: dict[str, Path | Produced] = {gemma.GENO: found.geno, gemma.SNPS: snps}
    inputs = {**common, gemma.PHENO: found.pheno}
    kinship = _job("kinship", gemma.kinship_argv(found.program), inputs, [gemma.KINSHIP], large=True)

    def trait(name: str, pheno: Path, column: int) -> Job:
        inputs = {**common, "traits.txt": pheno, gemma.KINSHIP: Produced("kinship", gemma.KINSHIP)}
        argv = gemma.trait_argv(found.program, "traits.txt", column)
        return _job(name, argv, inputs, ["G.assoc.txt"], large=True)

    if traits is not None:
        mapping = [trait(f"trait-{n:03d}", traits, n) for n in range(1, gemma.columns(traits.read_bytes()) + 1)]
    else:
        mapping = [trait("trait", found.pheno, 1)]
        for k in range(permutations):
            shuffled = folder / f"permuted-{k:02d}.txt"
            shuffled.write_bytes(gemma.permuted(found.pheno.read_bytes(), seed, k))
            mapping.append(trait(f"permuted-{k:02d}", shuffled, 1))

    def combine(outputs: Outputs) -> Report:
        return reports.of_gemma({job["name"]: gemma.top_hit(outputs[job["name"]]["G.assoc.txt"]) for job in mapping})

    stages = (Stage("kinship of the strains", (kinship,)), Stage(f"{len(mapping)} traits", tuple(mapping)))
    return Plan("GEMMA over the BXD mouse strains", stages, combine)


def _job(
    name: str, argv: Sequence[str], inputs: dict[str, Path | Produced], outputs: list[str], *, large: bool = False
) -> Job:
    return Job(
        name=name,
        argv=list(argv),
        inputs=inputs,
        outputs=outputs,
        env=dict(gemma.ENVIRONMENT) if large else {},
        needs=LARGE if large else SMALL,
        redundancy={"replicas": 2, "quorum": 2},
    )
