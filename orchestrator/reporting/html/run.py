"""How the run went, and where everything comes from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from orchestrator.reporting.html.charts import timeline_chart
from orchestrator.reporting.html.headline import duration_text
from orchestrator.reporting.html.parts import Facts, Folded, Lines, Part, Section
from orchestrator.reporting.report import ReportData
from orchestrator.reporting.timeline import Timeline

_MOST_SEEDS = 8


def timeline_section(data: ReportData) -> Section | None:
    """Which worker was at which member, and what was lost."""
    timeline = data.timeline
    if timeline is None:
        return None
    intro = "Who worked when: what was waited for, what was lost on the way, and when workers had nothing to do."
    return Section("timeline", "Timeline", intro, (Facts(tuple(_timeline_facts(timeline))), timeline_chart(timeline)))


def _timeline_facts(timeline: Timeline) -> Iterator[tuple[str, str]]:
    spans = timeline.spans
    yield "from the first start to the last sign", duration_text(timeline.ended - timeline.began)
    yield "workers", str(len(timeline.workers))
    yield "worker time", duration_text(timeline.busy_s)
    yield "attempts", str(len(spans))
    ended = Counter(span.outcome for span in spans if span.outcome != "published")
    for outcome, count in sorted(ended.items()):
        yield f"of these {outcome.replace('_', ' ')}", str(count)
    if len(timeline.starts) > 1:
        yield "coordinators", str(len(timeline.starts))


def notes_section(data: ReportData) -> Section | None:
    """What the run says of itself in words."""
    result = data.result
    lines = list(result.notes)
    lines += [f"member {m.index}, {m.status.replace('_', ' ')}: {m.message}" for m in result.members if m.message][:50]
    if result.gate is not None:
        lines.append(f"gate {'passed' if result.gate.passed else 'missed'}: {result.gate.reason}")
    return (
        Section("notes", "Notes", "What else there is to know of this run.", (Lines(tuple(lines)),)) if lines else None
    )


def provenance_section(data: ReportData) -> Section:
    """What the figures can be traced back to."""
    result = data.result
    seeds = [str(member.seed) for member in result.members]
    more = "" if len(seeds) <= _MOST_SEEDS else f" … ({len(seeds)} in all, in the table of members)"
    facts = [
        ("run id", result.run_id),
        ("run key", result.run_key),
        ("status", f"{result.status.replace('_', ' ')}, exit code {result.exit_code}, start {result.attempt}"),
        ("combined by", result.combine),
        ("root seed", str(data.spec.get("job", {}).get("seed", "–"))),
        ("members' seeds", ", ".join(seeds[:_MOST_SEEDS]) + more),
        ("spec digest", result.spec_digest),
        ("code digest", result.code_digest),
        ("data fingerprint", result.data_fingerprint),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items()))),
        *_pack_facts(data),
        *((f"{name.removesuffix('_s').replace('_', ' ')} time", duration_text(s)) for name, s in result.timing.items()),
        *((f"artefact: {name}", key) for name, key in sorted(result.artifacts.items())),
    ]
    parts: list[Part] = [Facts(tuple(facts))]
    if data.spec:
        text = json.dumps(data.spec.get("job", data.spec), indent=1, ensure_ascii=False, sort_keys=True)
        parts.append(Folded("The job, every key", text))
    intro = "The same spec, code and data give the same weights on the same kind of machine, bit for bit on a CPU."
    return Section("provenance", "Provenance", intro, tuple(parts))


def _pack_facts(data: ReportData) -> Iterator[tuple[str, str]]:
    if not data.packs:
        return
    engines = Counter(str(pack.get("engine")) for pack in data.packs)
    sizes = Counter(len(pack.get("members", ())) for pack in data.packs)
    yield "engines", ", ".join(f"{engine} ({count} packs)" for engine, count in sorted(engines.items()))
    yield "packs", ", ".join(f"{count} of {size}" for size, count in sorted(sizes.items()))
    if data.packed_because:
        yield "packed so because", data.packed_because
