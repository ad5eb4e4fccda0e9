"""Versions of what shapes the numbers: a checkpoint goes on under the same ones only."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Mapping

_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "tensorflow": ("tensorflow",),
    "jax": ("jax", "jaxlib"),  # jaxlib holds the compiler
}


def versions(backend: str) -> dict[str, str]:
    """Versions of Python, of Keras' `backend` (`tensorflow` or `jax`), of Keras and of NumPy, by name."""
    names = (*_PACKAGES[backend], "keras", "numpy")
    return {
        "python": platform.python_version(),
        **{name: str(importlib.import_module(name).__version__) for name in names},
    }
