"""The schedule's packs: decided once, when the preflight has seen the models; split where that goes wrong. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.planning import events as ev
from orchestrator.planning.commands import Command, KillWorker, Note, RecordPacked
from orchestrator.planning.packs import Architecture, Pack, PackingRules, decide_packs, split_evenly
from orchestrator.planning.schedule_state import State, Stepped, change_worker, pack_of, set_member

_UNSEEN = "its model was not looked at before the start"


def pack_members(state: State, passed: ev.PreflightPassed) -> Stepped:
    """Decide the packs of members that are in none yet; one whose model was not looked at is trained alone."""
    packed = {index for pack in state.packs for index in pack.members}
    loose = [index for index in state.members if index not in packed]
    if not loose:
        return _regroup(state, state.packs)
    seen = passed.architectures
    decision = decide_packs(
        {i: seen.get(i, Architecture(f"member {i}", obstacle=_UNSEEN)) for i in sorted(loose)},
        state.settings.packing,
        device=passed.device,
        num_rows=(state.rows or {}).get("train", 0),
        num_workers=state.crew.num_workers,
    )
    new = [replace(pack, index=len(state.packs) + number) for number, pack in enumerate(decision.packs)]
    packs = (*state.packs, *new)
    commands: list[Command] = [RecordPacked(packs, decision.reason)]
    if state.settings.packing.engine != "solo":
        commands.append(Note(f"engine: {decision.reason}"))
    state, changed = _regroup(use_packs(state, packs), packs)
    return state, [*commands, *changed]


def use_packs(state: State, packs: Sequence[Pack]) -> State:
    """Have the members that wait do so in these packs; one that waits for a retry joins when its time has come.

    Trials that a search has just added are in none yet.
    """
    state = replace(state, packs=tuple(packs))
    if state.cut_at is not None:
        return state
    packed = {index for pack in packs for index in pack.members}
    ready = (i for i, m in state.members.items() if m.status == "waiting" and i in packed and i not in state.delayed)
    wanted = {pack_of(state, i).index for i in ready}
    return replace(state, waiting=tuple(sorted(wanted)))


def _regroup(state: State, packs: Sequence[Pack]) -> Stepped:
    """Other workers, where the members turn out to be trained one by one: one with all cores would not be faster.

    Few and short ones are not worth the start of further workers.
    """
    crew = state.solo_crew
    if crew is None or crew == state.crew or any(pack.engine == "fused" for pack in packs):
        return state, []
    if _is_short(state):
        return state, []
    state, before = replace(state, crew=crew, alone=True), state.crew
    if crew.num_cpus == before.num_cpus:
        return state, []
    gone: list[Command] = [KillWorker(name) for name in state.workers]
    return replace(state, workers={}), gone


def _is_short(state: State) -> bool:
    search = state.settings.search
    num_trained = len(state.members) if search is None else search.num_trials
    return is_short(state.settings.packing, (state.rows or {}).get("train", 0), num_trained)


def is_short(rules: PackingRules, num_rows: int, num_trained: int) -> bool:
    """Whether so many members, or trials, train so few steps on so many rows that other workers would not pay."""
    return num_rows / rules.batch_size * rules.epochs * num_trained < SHORT_STEPS


SHORT_STEPS = 5_000
"""Below so many gradient steps of all members, a further worker's start takes longer than it saves."""


def split(state: State, event: ev.PackTooLarge | ev.PackRefused) -> Stepped:
    """Several packs instead of one: halves where memory is too small, each member alone where they cannot be fused.

    That is no attempt that failed. What was measured on one pack holds for those of its architecture that still wait.
    """
    pack, worker = state.packs[event.pack], state.workers[event.worker]
    if isinstance(event, ev.PackTooLarge):
        most, engine = -(-len(pack.members) // 2), pack.engine
        text = f"a pack of {len(pack.members)} members does not fit into memory: halved ({event.message})"
    else:
        most, engine = 1, "solo"
        text = f"engine: solo: {event.message}"
    unsettled = [index for index in worker.members if index in pack.members]
    for index in unsettled:
        state = set_member(state, index, status="waiting")
    state = change_worker(state, event.worker, members=tuple(i for i in worker.members if i not in unsettled))
    alike = [other for other in map(state.packs.__getitem__, state.waiting) if _is_as_large(state, other, pack, most)]
    for too_large in (pack, *alike):
        new = [
            Pack(len(state.packs) + number, part, engine)
            for number, part in enumerate(split_evenly(too_large.members, most))
        ]
        state = replace(state, packs=(*state.packs, *new))
    if state.cut_at is None:
        state = use_packs(state, state.packs)
    else:
        state = replace(state, unpublished=(*state.unpublished, *unsettled))
    return state, [RecordPacked(state.packs, text), Note(text)]


def share_out(state: State, num_free: int) -> Stepped:
    """Have so many free workers something to train, where fewer packs wait: the largest of them are halved.

    Only where a pack's size need not be the same in every run (not on a CPU, nor in deterministic mode), and of packs
    whose members all wait for their first attempt.
    """
    passed = state.preflight
    if passed is None or passed.deterministic or passed.device == "cpu" or state.cut_at is not None:
        return state, []
    parts = [state.packs[index] for index in state.waiting]
    kept = [pack for pack in parts if not _is_untouched(state, pack)]
    fresh = [pack.members for pack in parts if pack not in kept]
    engines = {member: pack.engine for pack in parts for member in pack.members}
    before = len(fresh)
    while len(kept) + len(fresh) < num_free and max(map(len, fresh), default=1) > 1:
        largest = max(fresh, key=len)
        at = fresh.index(largest)
        fresh[at : at + 1] = split_evenly(largest, math.ceil(len(largest) / 2))
    if len(fresh) == before:
        return state, []
    known = {pack.members for pack in parts}
    new = [members for members in fresh if members not in known]
    packs = [Pack(len(state.packs) + number, members, engines[members[0]]) for number, members in enumerate(new)]
    text = f"nodes have come: packs that wait are shared out anew, {len(parts)} → {len(kept) + len(fresh)}"
    state = use_packs(state, (*state.packs, *packs))
    return state, [RecordPacked(state.packs, text), Note(text)]


def _is_untouched(state: State, pack: Pack) -> bool:
    members = [state.members[index] for index in pack.members]
    return all(m.status == "waiting" and m.attempts == 0 and m.checkpoint_epoch is None for m in members)


def _is_as_large(state: State, other: Pack, pack: Pack, most: int) -> bool:
    seen = {} if state.preflight is None else state.preflight.architectures
    ours, theirs = seen.get(pack.members[0]), seen.get(other.members[0])
    same = ours is not None and theirs is not None and ours.signature == theirs.signature
    return same and other.engine == pack.engine and len(other.members) > most
