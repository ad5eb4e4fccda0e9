"""`python -m tests.bench [ROW…] [--quick] [--rounds N] [--out FILE.json] [--markdown FILE.md]`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.harness import Bench, Failed, Figure
from tests.bench.machine import machine_facts
from tests.bench.rows import ROWS
from tests.bench.table import markdown, text, to_json


def main(arguments: list[str] | None = None) -> int:
    """Measure, show the table, and say by the exit code whether a bar was missed (1)."""
    asked = _parse(arguments)
    machine = machine_facts()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="orchestrator-bench-", ignore_cleanup_errors=True) as folder:
        bench = Bench(quick=asked.quick, rounds=asked.rounds, folder=Path(folder))
        for name in asked.rows:
            began = time.monotonic()
            bench.say(f"{name}: {ROWS[name].__doc__}")
            try:
                for figure in ROWS[name](bench):
                    figures.append(figure)
                    _write(asked, machine, figures)
            except Failed as failed:
                figures.append(Figure(name, "the whole row", problem=str(failed)))
            bench.say(f"{name}: took {time.monotonic() - began:.0f} s")
    _write(asked, machine, figures)
    print(text(machine, figures, quick=asked.quick))
    return int(any(figure.verdict(quick=asked.quick) in ("MISSED", "NOT MEASURED") for figure in figures))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure P1–P8 against their rivals.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tests the suite itself, gives no verdicts")
    parser.add_argument("--rounds", type=int, help="how often each contestant runs; default by row")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also as JSON, after each figure")
    parser.add_argument("--markdown", type=Path, metavar="FILE.md", help="also as Markdown")
    asked = parser.parse_args(arguments)
    asked.rows = [name.upper() for name in asked.rows] or list(ROWS)
    unknown = sorted(set(asked.rows) - set(ROWS))
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return asked


def _write(asked: argparse.Namespace, machine: dict[str, str], figures: list[Figure]) -> None:
    """After each figure: what was measured in an hour must outlive what fails in the next."""
    if asked.out is not None:
        asked.out.write_text(json.dumps(to_json(machine, figures, quick=asked.quick), indent=1, ensure_ascii=False))
    if asked.markdown is not None:
        asked.markdown.write_text(markdown(machine, figures, quick=asked.quick))


if __name__ == "__main__":
    sys.exit(main())
