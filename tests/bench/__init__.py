"""The benchmark suite: `python -m tests.bench`; see its README.md."""
