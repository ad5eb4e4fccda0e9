"""P8: the quick start from a cold start to its report, as a multiple of TensorFlow's import on the same machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tests.bench.harness import ROOT, Bar, Bench, Figure, Outcome, problem_of, ratios, run_process
from tests.bench.ours import run_job


def _import_tensorflow() -> Outcome:
    seconds, _ = run_process([sys.executable, "-c", "import tensorflow"], deadline_s=300)
    return Outcome(seconds)


def measure(bench: Bench) -> Iterator[Figure]:
    """the quick start, cold, against `python -c "import tensorflow"`"""
    job = ROOT / "jobs" / "digits.yaml"
    found = bench.run(
        {
            "import": _import_tensorflow,
            "quick start": lambda: run_job(job, bench.scratch() / "runs", deadline_s=600),
        },
        rounds=5,
    )
    ours, rival = found["quick start"], found["import"]
    yield Figure(
        "P8",
        "quick start (digits, 5 members), cold, as a multiple",
        'python -c "import tensorflow"',
        ratios(ours, rival),
        bar=Bar(4, at_most=True),
        problem=problem_of(ours, rival),
        facts={"ours": ours.facts(), "rival": rival.facts()},
    )
