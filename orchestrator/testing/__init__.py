"""Shipped fakes at the real seams, for our tests and for yours: nothing has to be patched.

MemoryStore   the `Store` port over a dictionary
FaultyStore   any store, with faults injected by rules
FakeClock     the `Clock` port, moved by hand
FakeCluster   the `Cluster` port without processes: a trainer without TensorFlow, with faults by script
"""

from orchestrator.testing.cluster import FakeCluster
from orchestrator.testing.program import PredictFault, WorkerFault
from orchestrator.testing.stores import FakeClock, Fault, FaultyStore, MemoryStore

__all__ = ["FakeClock", "FakeCluster", "Fault", "FaultyStore", "MemoryStore", "PredictFault", "WorkerFault"]
