"""The cap on what is read: a stored object is untrusted, so its size is checked before its bytes are taken in."""

from __future__ import annotations

from orchestrator.errors import DamagedStore


def check_size(num_bytes: int, max_bytes: int | None, *, where: str) -> None:
    """Refuse an object that is larger than it may be.

    Args:
        num_bytes: what the store says that it has, or what came so far.
        max_bytes: the most that it may have; None is without limit.
        where: the object, for the message.

    Raises:
        DamagedStore: it is larger.
    """
    if max_bytes is not None and num_bytes > max_bytes:
        raise DamagedStore(
            f"the stored object has {num_bytes} bytes or more, where at most {max_bytes} can be right",
            where=where,
            hint="something else was written over it: restore it from a backup, or have its member trained again",
        )
