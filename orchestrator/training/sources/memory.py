"""How much of rows a process takes into memory before it says that they are too many."""

from __future__ import annotations

import os


def half_of_memory() -> int:
    """Half of this machine's memory in bytes: what rows may take; workers on it share them, and need the rest."""
    return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE")) // 2
