"""How members are named in a line of text. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def prefix_of(members: Sequence[int]) -> str:
    """What a line about these members begins with: `[member 3]`, `[members 0–7]`, `[members 0–2, 5]`."""
    runs: list[list[int]] = []
    for member in sorted(members):
        if runs and member == runs[-1][-1] + 1:
            runs[-1].append(member)
        else:
            runs.append([member])
    told = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    return f"[member{'' if len(members) == 1 else 's'} {told}]"
