"""Run a plan here, one job after the other, without any server: the reference for a distributed run.

It runs the plan's programs as they are, unsandboxed, each in a fresh folder: use it for the demos' own programs only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from gnexec.demo.compare import comparator
from gnexec.demo.plan import Job, Outputs, Plan, Produced


def run(plan: Plan) -> Outputs:
    """Run all jobs and return their outputs.

    Raises:
        subprocess.CalledProcessError: a program failed; its stderr is in the error.
        FileNotFoundError: a program is not there, or left an output out.
    """
    outputs: dict[str, dict[str, bytes]] = {}
    for job in plan.jobs:
        outputs[job["name"]] = _run(job, outputs)
    return outputs


def differences(outputs: Outputs, reference: Outputs) -> list[str]:
    """Say where outputs differ from a reference run, one sentence each; an empty list says that they agree.

    GEMMA's tables are compared within tolerance (`gnexec.demo.compare`), everything else byte by byte.
    """
    found = []
    for job in sorted(set(outputs) | set(reference)):
        ours, theirs = outputs.get(job, {}), reference.get(job, {})
        for path in sorted(set(ours) | set(theirs)):
            if path not in ours or path not in theirs:
                found.append(f"{job}: {path} is in one run only")
            elif not (comparison := comparator(path)(ours[path], theirs[path])).equal:
                found.append(f"{job}: {path}: {comparison.why}")
    return found


def _run(job: Job, earlier: Mapping[str, Mapping[str, bytes]]) -> dict[str, bytes]:
    with TemporaryDirectory(prefix="gnexec-serial-") as name:
        folder = Path(name)
        for path, source in job["inputs"].items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, Produced):
                target.write_bytes(earlier[source.job][source.path])
            else:
                shutil.copyfile(source, target)
        environment = {"PATH": os.environ.get("PATH", os.defpath), **job["env"]}
        subprocess.run(
            job["argv"], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
        return {path: (folder / path).read_bytes() for path in job["outputs"]}
