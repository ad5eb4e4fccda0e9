"""The command that plans: what a run would do and take, before anything is paid for; `main` registers it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from orchestrator import api
from orchestrator.api.planned import workers_json
from orchestrator.cli.options import AsJson, Fresh, JobPath, Overrides, RunId, Smoke
from orchestrator.cli.output import answer, json_line, tell
from orchestrator.planning.estimate import in_words
from orchestrator.reporting.facts import ranges
from orchestrator.reporting.tables import plan_text
from orchestrator.spec import load_job

MOST_PACKS = 4
"""Packs that are named."""


def plan(
    job: JobPath,
    overrides: Overrides = None,
    run_id: RunId = None,
    fresh: Fresh = False,
    smoke: Smoke = False,
    measure: Annotated[
        bool,
        typer.Option(help="Have one real worker check the job and time some steps; nothing of it is stored."),
    ] = False,
    connect: Annotated[
        bool, typer.Option(help="Ask the cluster at ray.address how many workers it has room for.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show members, packs, placement, storage keys, time, memory and what a start would skip; no member is trained."""
    planned = api.plan(load_job(job, overrides or []), run_id=run_id, fresh=fresh, smoke=smoke)
    remainder = api.remaining(planned)
    told, placement = planned.to_json() | {"resume": remainder.to_json()}, None
    with contextlib.redirect_stdout(sys.stderr):  # Ray speaks on standard output, where only the plan belongs
        if measure:
            measured = api.measure(planned, after=remainder, note=tell)
            told |= measured.to_json()
            placement = measured.placement
        elif connect:
            placement = api.look_at_cluster(planned, note=tell)
    if placement is not None:
        address = planned.request.job.ray.address
        told["placement"] = f"{placement.reason}, on {f'the cluster at {address}' if address else 'this machine'}"
        told["workers"] = workers_json(placement)
    if as_json:
        answer(json_line(told))
        return
    answer(plan_text(plan_facts(told), [_row(member) for member in told["members"]]))


def plan_facts(told: Mapping[str, Any]) -> dict[str, object]:
    """What a plan says of the whole run, in words: of `RunPlan.to_json`, joined with what was measured and found."""
    facts: dict[str, object] = {name: told[name] for name in ("run_id", "storage", "run", "placement", "engine")}
    facts |= {"packs": _packs(told["packs"]), "time": _time(told["time"]), "memory": _memory(told["memory"])}
    facts["a start would skip"] = told["resume"]["text"]
    optional = ("stop_when", "search", "folds", "stages")
    facts |= {name: told[name] for name in optional if told[name] is not None}
    if told["max_rows"] is not None:
        facts["rows"] = f"at most {told['max_rows']:,} of each set"
    facts["exact"] = "yes, on a CPU" if told["exact"] else f"no, because {'; '.join(told['inexact_because'])}"
    return facts | ({"note": "; ".join(told["notes"])} if told["notes"] else {})


def _packs(packs: Mapping[str, Any]) -> str:
    if not packs["decided"]:
        return str(packs["reason"])
    named = [f"{ranges(pack['members'])} {pack['engine']}" for pack in packs["packs"]]
    more = f"; and {len(named) - MOST_PACKS} more" if len(named) > MOST_PACKS else ""
    return f"{'; '.join(named[:MOST_PACKS])}{more}"


def _time(time: Mapping[str, Any]) -> str:
    if not time["measured"]:
        return str(time["reason"])
    packs = "; ".join(
        f"pack {pack['pack']}: {pack['compile_s']:.1f} s until its first step, {pack['epoch_s']:.3g} s an epoch (of "
        f"which {pack['validation_s']:.2g} s are not steps), {pack['prediction_s']:.2g} s to predict"
        for pack in time["packs"]
    )
    low, high = in_words(time["low_s"]), in_words(time["high_s"])
    notes = "".join(f"; {note}" for note in time["notes"])
    return f"{low} to {high}: {time['reason']}. Measured: {packs}{notes}"


def _memory(memory: Mapping[str, Any]) -> str:
    if not memory["measured"]:
        return str(memory["reason"])
    gpu = memory["gpu_peak_bytes"]
    of_gpu = "" if gpu is None else f", and {gpu / 2**30:.1f} GiB of its GPU"
    peak = f"{memory['worker_peak_bytes'] / 2**30:.1f} GiB"
    return f"a worker had up to {peak}{of_gpu}; there would be {memory['num_workers']}"


def _row(member: Mapping[str, Any]) -> dict[str, object]:
    return {
        "member": member["index"],
        **{name: member[name] for name in ("configuration", "repeat", "fold") if name in member},
        "seed": member["seed"],
        "dropout": member["dropout"],
        "builder": member["builder"],
        "hyperparameters": {k: v for k, v in member["kwargs"].items() if k != "dropout"}
        | {f"train.{key}": value for key, value in member["train"].items()},
        "storage key": member["key"],
    }
