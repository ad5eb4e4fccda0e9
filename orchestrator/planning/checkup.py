"""What `doctor` makes of what machines report: reports in, findings out, nothing asked and nothing mended.

judge → versions · gpus · storage · clock · disk · modules        of `MachineReport`s
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

from orchestrator.errors import OrchestratorError

DEADLINE_S = 90.0
"""How long each check may take: before a node's first answer, the job's code is shipped to it. What takes longer is a
finding of its own."""

SKEW_WARNING_S = 5.0
SKEW_PROBLEM_S = 15 * 60.0
"""S3 refuses requests whose signature is older or younger than that."""

DISK_WARNING_BYTES = 5 * 2**30
DISK_PROBLEM_BYTES = 2**29
"""Checkpoints and models are written to scratch before they go to storage; Ray stops on a disk that is 95 % full."""

CLEARING = "delete"
"""The right without which runs end as well, and leave more behind."""

_EXACT = ("orchestrator", "ray")
"""These must be the same to the last digit; the others may differ in theirs."""

_NEVER_FATAL = ("numpy",)

_BACKENDS = ("tensorflow", "jax")
"""Members compute with one of these; the other need not be there, in whatever version."""


@dataclass(frozen=True)
class Finding:
    """What one check came to.

    Attributes:
        check: its name, such as `versions`.
        level: `problem` keeps a run from ending well, `warning` may.
        where: the machine or address.
        what: one sentence.
        hint: how to mend it.
        retryable: of a problem: it may be gone by itself later.
    """

    check: str
    level: Literal["ok", "warning", "problem"]
    where: str
    what: str
    hint: str | None = None
    retryable: bool = False


@dataclass(frozen=True)
class Right:
    """Something that a machine must be allowed to do in storage, and why it is not; None: it is."""

    name: str
    error: OrchestratorError | None = None


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a machine.

    Attributes:
        counted: how many Ray counts there; None where no Ray was asked.
        installed: how many the driver lists; None where there is no `nvidia-smi`.
        seen: whether a worker that asked for one can compute on one; None where none was asked, or did not answer.
        silence: why a worker that was asked did not answer.
    """

    counted: float | None = None
    installed: int | None = None
    seen: bool | None = None
    silence: str | None = None


@dataclass(frozen=True)
class MachineReport:
    """What a machine says of itself.

    Attributes:
        where: its name for people.
        versions: by package, and of `python`; None: not installed.
        scratch: folder for what need not last.
        free_bytes: room in it.
        ahead_s: seconds that its clock is ahead of the asking machine's, as far as that is certain.
        gpus: its GPUs.
        rights: what it may do in storage; none where nobody asked.
        missing_modules: of the job's own modules those that cannot be imported there.
        trains: whether members may train there; a head that offers no CPU and no GPU needs no TensorFlow.
        unasked: why it was not asked about storage, modules and a worker's view of its GPUs; None: it was.
    """

    where: str
    versions: Mapping[str, str | None]
    scratch: str
    free_bytes: int
    ahead_s: float = 0.0
    gpus: Gpus = field(default_factory=Gpus)
    rights: tuple[Right, ...] = ()
    missing_modules: tuple[str, ...] = ()
    trains: bool = True
    unasked: str | None = None


@dataclass(frozen=True)
class Asked:
    """What the machines were asked about.

    Attributes:
        backend: what members compute with.
        storage: the storage location; None: not asked.
        on_s3: it is S3, which refuses a clock that is far off.
        server_ahead_s: seconds that the storage server's clock is ahead of the asking machine's; None: it has none.
        modules: the job's own modules.
        of_cluster: a cluster's nodes train, and the asking machine does not.
        some_silent: there are nodes that did not answer: who did is not all.
    """

    backend: str
    storage: str | None = None
    on_s3: bool = False
    server_ahead_s: float | None = None
    modules: tuple[str, ...] = ()
    of_cluster: bool = False
    some_silent: bool = False


def judge(here: MachineReport, nodes: Sequence[MachineReport], asked: Asked) -> tuple[Finding, ...]:
    """All findings on what machines reported. Machines without fault share one `ok` a check.

    Args:
        here: the asking machine, which the others are compared with.
        nodes: of the cluster, as far as they answered.
        asked: what they were asked about.
    """
    machines = (here, *nodes)
    workers = nodes if asked.of_cluster else machines
    reference = _reference(here, workers, asked.backend)
    shown = ", ".join(f"{name} {version}" for name, version in reference.items() if version)
    each = partial(_each, these="" if asked.some_silent else "all ")
    findings = [
        *each("versions", machines, lambda m: _versions(m, reference, is_worker=m in workers and m.trains), shown),
        *each("gpus", workers, _gpus, _gpus_text(workers)),
        *each("clock", nodes, lambda m: _clock(m.where, m.ahead_s, on_s3=asked.on_s3), "as on this machine"),
        *each("disk", machines, _disk, f"at least {_gib(min(m.free_bytes for m in machines))} free for scratch"),
    ]
    if asked.server_ahead_s is not None and asked.storage is not None:
        server = list(_clock(asked.storage, asked.server_ahead_s, on_s3=asked.on_s3))
        findings += server or [Finding("clock", "ok", asked.storage, "its server's clock is as this machine's")]
    if asked.storage is not None:
        names = ", ".join(right.name for right in here.rights)
        findings += each("storage", machines, partial(_storage, asked.storage), f"{asked.storage}: {names}")
    if asked.modules:
        findings += each("modules", workers, _modules, f"found: {', '.join(asked.modules)}")
    return tuple(findings)


def exit_code(findings: Iterable[Finding]) -> int:
    """0; 2 with a problem that no retry mends; 75 when all that is wrong may be gone later."""
    problems = [finding for finding in findings if finding.level == "problem"]
    if not problems:
        return 0
    return 75 if all(problem.retryable for problem in problems) else 2


def findings_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Findings and their exit code as plain values."""
    return {"findings": [asdict(finding) for finding in findings], "exit_code": exit_code(findings)}


def findings_in(line: str) -> tuple[Finding, ...] | None:
    """The findings in a line of JSON that `findings_json` made; None where it is another line."""
    try:
        return tuple(Finding(**finding) for finding in json.loads(line)["findings"])
    except (ValueError, KeyError, TypeError):
        return None


def error_in(line: str, where: str) -> Finding | None:
    """The problem in a line of JSON by which a command tells of its error; None where it is another line."""
    try:
        told = json.loads(line)
        place, what = told["where"] or where, str(told["what"])
        return Finding("job", "problem", place, what, told["hint"], retryable=bool(told["retryable"]))
    except (ValueError, KeyError, TypeError):
        return None


def of_error(check: str, where: str, error: OrchestratorError) -> Finding:
    """The problem that an error is."""
    return Finding(check, "problem", error.where or where, error.what, error.hint, retryable=error.retryable)


def skew_s(sent_at: float, there: float, received_at: float) -> float:
    """How far a clock that was read between two moments of another is ahead of it, as far as that is certain.

    Args:
        sent_at, received_at: when the question went out and the answer was there, by the asker's clock.
        there: what the asked clock said. All in seconds.
    """
    return there - received_at if there > received_at else min(there - sent_at, 0.0)


def _each(
    check: str,
    machines: Sequence[MachineReport],
    judged: Callable[[MachineReport], Iterator[Finding]],
    well: str,
    *,
    these: str,
) -> list[Finding]:
    """What is wrong on each machine, and one line for all on which nothing is."""
    wrong, fine = [], []
    for machine in machines:
        found = list(judged(machine))
        wrong += found
        if not found:
            fine.append(machine.where)
    if fine:
        where = fine[0] if len(fine) == 1 else f"{'' if wrong else these}{len(fine)} machines"
        wrong.append(Finding(check, "ok", where, well))
    return wrong


def _reference(here: MachineReport, workers: Sequence[MachineReport], backend: str) -> dict[str, str | None]:
    """The versions to compare with: this machine's, and of what it does not have (it need not train) the first's."""
    return {
        name: version or next((worker.versions[name] for worker in workers if worker.versions.get(name)), None)
        for name, version in here.versions.items()
        if name == backend or name not in _BACKENDS
    }


def _versions(machine: MachineReport, reference: Mapping[str, str | None], *, is_worker: bool) -> Iterator[Finding]:
    for name, wanted in reference.items():
        found = machine.versions.get(name)
        if found is None and is_worker:
            hint = "install it there: the same image or environment on every node"
            yield Finding("versions", "problem", machine.where, f"{name} is not installed", hint)
        elif found is not None and wanted is not None and found != wanted:
            fatal = name in _EXACT or (name not in _NEVER_FATAL and _release(found) != _release(wanted))
            yield Finding(
                "versions",
                "problem" if fatal else "warning",
                machine.where,
                f"{name} {found} is installed there, {wanted} elsewhere"
                + ("" if fatal else ": members trained there may differ in their last digits"),
                f"install {name} {wanted} there: the same image or environment on every node",
            )


def _release(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])


def _gpus(machine: MachineReport) -> Iterator[Finding]:
    gpus = machine.gpus
    expected = gpus.counted if gpus.counted is not None else gpus.installed
    if expected and gpus.seen is False:
        what = f"{_count(expected)}, and a worker sees none"
        hint = "pip install 'tensorflow[and-cuda]' (or 'jax[cuda12]') there, and check the driver (`nvidia-smi`)"
        yield Finding("gpus", "problem", machine.where, what, hint)
    elif expected and gpus.seen is None:
        why = machine.unasked or gpus.silence or "none answered"
        what = f"{_count(expected)}, and nobody knows whether a worker can use them: {why}"
        yield Finding("gpus", "warning", machine.where, what, "ask again when the GPUs are free")
    if gpus.counted is not None and (gpus.installed or 0) > gpus.counted:
        what = f"Ray counts {_count(gpus.counted)} of {gpus.installed} that are installed"
        hint = "the others stay idle; start the node with `ray start --num-gpus`"
        yield Finding("gpus", "warning", machine.where, what, hint)


def _gpus_text(workers: Sequence[MachineReport]) -> str:
    counts = [w.gpus.counted if w.gpus.counted is not None else w.gpus.installed or 0 for w in workers]
    return f"{_count(sum(counts))} in all, seen by workers" if any(counts) else "none: members train on CPU cores"


def _count(number: float) -> str:
    return f"{number:g} GPU{'' if number == 1 else 's'}"


def _clock(where: str, ahead_s: float, *, on_s3: bool) -> Iterator[Finding]:
    if abs(ahead_s) <= SKEW_WARNING_S:
        return
    refused = on_s3 and abs(ahead_s) > SKEW_PROBLEM_S
    direction = "ahead of" if ahead_s > 0 else "behind"
    what = f"its clock is {abs(ahead_s):,.0f} s {direction} this machine's"
    what += ", and S3 refuses signatures that far off" if refused else ": times in logs do not compare"
    yield Finding("clock", "problem" if refused else "warning", where, what, "synchronise the clocks (NTP, chrony)")


def _disk(machine: MachineReport) -> Iterator[Finding]:
    if machine.free_bytes >= DISK_WARNING_BYTES:
        return
    level: Literal["problem", "warning"] = "problem" if machine.free_bytes < DISK_PROBLEM_BYTES else "warning"
    what = f"{_gib(machine.free_bytes)} free in {machine.scratch}, where checkpoints and models pass through"
    yield Finding("disk", level, machine.where, what, "free some space, or set TMPDIR to a larger disk")


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:,.1f} GiB"


def _unasked(check: str, machine: MachineReport) -> Iterator[Finding]:
    if machine.unasked is not None:
        yield Finding(check, "warning", machine.where, f"not known: {machine.unasked}", "ask again when that is mended")


def _storage(location: str, machine: MachineReport) -> Iterator[Finding]:
    yield from _unasked("storage", machine)
    for right in machine.rights:
        if right.error is None:
            continue
        what, retryable = f"{location}: {right.name}: {right.error.what}", right.error.retryable
        if right.name == CLEARING and not retryable:
            what += "; runs end without it, but superseded checkpoints stay, and prune is refused"
            yield Finding("storage", "warning", machine.where, what, right.error.hint)
        else:
            yield Finding("storage", "problem", machine.where, what, right.error.hint, retryable=retryable)


def _modules(machine: MachineReport) -> Iterator[Finding]:
    yield from _unasked("modules", machine)
    if machine.missing_modules:
        what = f"the job's code did not come as far as there: no {', '.join(machine.missing_modules)}"
        hint = "run it from the folder that holds the modules; .gitignore names what is not shipped"
        yield Finding("modules", "problem", machine.where, what, hint)
