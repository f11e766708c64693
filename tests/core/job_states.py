"""Draws the job's state machine from its table: `python -m tests.core.job_states` writes the page of the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gnexec.core.events import JobState
from gnexec.core.job import TRANSITIONS, Trigger

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reference" / "job-states.md"

TRIGGERS: Final[dict[Trigger, str]] = {
    Trigger.JOIN: "somebody, perhaps somebody else, hands in the same work again",
    Trigger.START: "an attempt is handed out",
    Trigger.COMPARE: "two of its results are compared",
    Trigger.END: "an attempt ends, and others are open",
    Trigger.DRAIN: "its last open attempt ends",
    Trigger.SUCCEED: "its results agree as its terms ask",
    Trigger.FAIL: "too many failures, or no attempt is left",
    Trigger.WITHDRAW: "an owner wants it no longer, and others do",
    Trigger.CANCEL: "its last owner wants it no longer",
}

TEXT: Final = """\
# The states of a job

Made from the table in `gnexec/core/job.py` by `python -m tests.core.job_states`; a test keeps the two equal. What is
not here cannot happen: an entry that asks for it makes the log unreadable, and no server writes one.

A job begins as `queued`. `queued` says that none of its attempts is open, `running` that at least one is. The other
three are decisions; attempts that are still open then may end without changing them.

## What leads where

```text
{arrows}
```

## What may happen in each state

{grid}

## What the words mean

{words}
"""


def page() -> str:
    """Return the page as the table gives it."""
    return TEXT.format(arrows="\n".join(_arrows()), grid="\n".join(_grid()), words="\n".join(_words()))


def _arrows() -> list[str]:
    """Return a line for each pair of states, and one for each state that something leaves as it is."""
    between: dict[tuple[JobState, JobState], list[Trigger]] = {}
    for (before, trigger), after in TRANSITIONS.items():
        between.setdefault((before, after), []).append(trigger)
    order = list(JobState)
    lines = []
    for before, after in sorted(between, key=lambda pair: (order.index(pair[0]), order.index(pair[1]))):
        label = ", ".join(sorted(between[before, after]))
        lines.append(f"{before:<9} --[ {label} ]--> {after if after is not before else 'itself'}")
    return lines


def _grid() -> list[str]:
    head = "| | " + " | ".join(Trigger) + " |"
    rows = []
    for state in JobState:
        cells = [TRANSITIONS.get((state, trigger)) for trigger in Trigger]
        rows.append(f"| **{state}** | " + " | ".join(cell or "–" for cell in cells) + " |")
    return [head, "|---" * (len(Trigger) + 1) + "|", *rows]


def _words() -> list[str]:
    return [f"- *{trigger}*: {TRIGGERS[trigger]}" for trigger in Trigger]


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
