"""Fixtures of tests that run real Keras or real Ray."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.support.tiny_jobs import TinyProject


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyProject:
    """A tiny project in the test's own folder, on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return TinyProject(tmp_path, f"tiny_{secrets.token_hex(4)}")
