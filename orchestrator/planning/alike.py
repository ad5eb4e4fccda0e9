"""Which members look alike before their models are there. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.planning.members import MemberPlan

_RATES = ("learning_rate", "optimizer.config.learning_rate")


def alike_members(members: Sequence[MemberPlan]) -> Mapping[object, Sequence[MemberPlan]]:
    """Members in groups that differ in nothing but seed, dropout rate and the learning rate that the job gives.

    Those without dropout are a group of their own: `if dropout: …` is how many builders leave the layer out.
    """
    groups: dict[object, list[MemberPlan]] = {}
    for member in members:
        others = repr(sorted((k, v) for k, v in member.kwargs.items() if k != "dropout"))
        settings = repr(sorted((k, v) for k, v in member.train_values.items() if k not in _RATES))
        prepared_by = repr(member.fold) if member.preprocess else None  # other rows give other figures
        transfer = repr((member.base, member.stages, member.best_over))
        key = (member.builder, others, settings, transfer, bool(member.kwargs.get("dropout")), prepared_by)
        groups.setdefault(key, []).append(member)
    return groups


def may_share_packs(members: Sequence[MemberPlan]) -> tuple[tuple[int, ...], ...]:
    """Groups of members that could be trained as one program, as far as can be told before their models are there.

    Members of one group build equal models, and are watched on the same rows. Of different groups some may turn out to
    be of one architecture; members in stages are trained one by one.
    """
    groups = [
        tuple(member.index for member in same if (member.fold and (member.fold.repeat, member.fold.fold)) == watched)
        for same in alike_members([member for member in members if not member.stages]).values()
        for watched in dict.fromkeys(member.fold and (member.fold.repeat, member.fold.fold) for member in same)
    ]
    return tuple(sorted([*groups, *((member.index,) for member in members if member.stages)]))
