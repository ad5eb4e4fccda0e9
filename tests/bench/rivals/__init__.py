"""The rivals, each in a file of its own, as an able user would write it and as its documentation shows.

Each trains the members of a task and averages their predictions: `python -m tests.bench.rivals.NAME TASK REPORT`.
"""
