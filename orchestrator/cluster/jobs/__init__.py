"""Runs that go through a cluster's job server: shipping code, finding the jobs of a run, their logs, their ends."""
