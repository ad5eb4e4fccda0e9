"""What becomes of faults on a real Ray cluster, case by case, as JSON: `python -m tests.support.fault_cases FOLDER`.

One cluster on this machine, in a process of its own: a head on which no worker fits, and nodes of two workers each that
come and go. The controller and all around it are the product's own; members are trained by the light trainer, which a
case holds in the middle of an epoch while it strikes. With `resumed` behind FOLDER, a second cluster goes on with the
run whose head the last case has killed.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from orchestrator.cluster.head import Head
from orchestrator.cluster.worker import Worker
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from tests.support.cluster_cases import HEALTH as PATIENT_HEALTH
from tests.support.fault_runs import LightRun, light_job, state_of, strike
from tests.support.light_trainer import Faults
from tests.support.packs import train_alone
from tests.support.waiting import wait_until

EPOCHS = 10
HEALTH = PATIENT_HEALTH | {"health_check_timeout_ms": 1000}
"""Here raylets stand still: one that gives no answer within a second, three times, is cut off."""

NODE = {"object_store_memory": 80_000_000}
HEAD_SILENCE_S = 4.0

Seen = dict[str, Any]


class Cases:
    """The cases, each a method that returns what was seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={**NODE, "num_cpus": 0, "num_gpus": 0, "include_dashboard": False, "_system_config": HEALTH},
        )
        self.nodes = {node.node_id: node for node in (self.add_node(), self.add_node())}
        ray.init(address=self.cluster.address, log_to_driver=False)

    def add_node(self, **args: Any) -> Any:
        return self.cluster.add_node(**{**NODE, "num_cpus": 2, **args})

    def renew_nodes(self) -> None:
        """Two nodes of two workers again."""
        for gone in set(self.nodes) - self.alive():
            self.remove(gone)
        while len(self.nodes) < 2:
            node = self.add_node()
            self.nodes[node.node_id] = node

    def alive(self) -> set[str]:
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def remove(self, node: str) -> float:
        self.cluster.remove_node(self.nodes.pop(node), allow_graceful=False)
        return time.monotonic()

    def run(self, name: str, members: int, *, every: int = 2, workers: int = 4, **parts: Any) -> LightRun:
        """A run in a folder of its own."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        faults = {"checkpoint_every_epochs": every, **parts.pop("patience", {})}
        mine = {key: parts.pop(key) for key in ("faults", "head", "run_id") if key in parts}
        job = light_job(folder, members, faults=faults, train={"epochs": EPOCHS}, **parts)
        return LightRun(job, folder, workers, **mine)

    def crashes(self) -> Seen:
        """Six members, four of them struck each in its own way; four are enough."""
        faults = Faults(exits={2: 3}, raises={3: 2}, memory_errors={4: 2})
        run = self.run("crashes", 6, ensemble={"quorum": 4}, patience={"stall_s": 5.0}, faults=faults)
        run.stage.hold(0, 4)
        run.stage.hold(1, 6)
        with run.running():
            first = run.held(0, 4)
            run.stage.hold(0, 8)
            killed = [strike(first["pid"], signal.SIGKILL)]
            frozen = run.held(1, 6)
            stopped = strike(frozen["pid"], signal.SIGSTOP)
            wait_until(lambda: state_of(frozen["pid"]) == "T", "the frozen worker to stand still")
            run.stage.let_go(1)
            second = run.held(0, 8, term=2)
            killed.append(strike(second["pid"], signal.SIGKILL))
            run.stage.let_go(0)
            to_progress = [run.progressed(0, at, term) for at, term in zip(killed, (2, 3), strict=True)]
            to_progress_frozen = run.progressed(1, stopped, 2)
        pids = [first["pid"], second["pid"], frozen["pid"]]
        wait_until(lambda: all(state_of(pid) is None for pid in pids), "the end of the struck processes")
        to_end_frozen = time.monotonic() - stopped  # Ray asks it to exit first, and waits some seconds
        return {
            **run.seen(),
            "to_progress": to_progress,
            "to_progress_frozen": to_progress_frozen,
            "to_end_frozen": to_end_frozen,
        }

    def partition(self) -> Seen:
        """A node is cut off: one of its workers works on, the other is frozen too and wakes after its replacement."""
        run = self.run("partition", 4)
        for member in range(4):
            run.stage.hold(member, 5)
        with run.running():
            held = [run.held(member, 5) for member in range(4)]
            node = run.node_of(0)
            cut_off = [member for member in range(4) if run.node_of(member) == node]
            working, frozen = (held[member]["pid"] for member in cut_off)
            raylet = self.nodes[node].all_processes["raylet"][0].process.pid
            stopped = strike(raylet, signal.SIGSTOP)
            strike(frozen, signal.SIGSTOP)
            run.stage.let_go(*(member for member in range(4) if member not in cut_off))
            wait_until(lambda: all(run.term(member) == 2 for member in cut_off), f"new terms; {run.progress.notes}")
            alive = [state_of(pid) for pid in (raylet, working, frozen)]
            run.stage.let_go(*cut_off)
            strike(frozen, signal.SIGCONT)
            wait_until(lambda: len(run.stage.told("fenced")) == 2, "both zombies to find themselves fenced")
            to_progress = [run.progressed(member, stopped, 2) for member in cut_off]
            fenced = [note["pid"] for note in run.stage.told("fenced")]
            strike(raylet, signal.SIGCONT)
        wait_until(lambda: state_of(working) is None and state_of(frozen) is None, "the end of the cut-off workers")
        return {
            **run.seen(),
            "cut_off": cut_off,
            "alive": alive,
            "fenced": sorted(fenced) == sorted([working, frozen]),
            "to_progress": to_progress,
        }

    def nodes_lost(self) -> Seen:
        """A node goes during an upload; then the other goes too; later a new one comes."""
        run = self.run("nodes_lost", 4)
        for member in range(4):
            run.stage.hold(member, 5)
        with run.running():
            for member in range(4):
                run.held(member, 5)
            node = run.node_of(0)
            uploading, beside = (member for member in range(4) if run.node_of(member) == node)
            untouched, hit_later = (member for member in range(4) if run.node_of(member) != node)
            run.stage.upload_gate(uploading).touch()
            run.stage.let_go(uploading)
            wait_until(lambda: run.stage.told("uploading", member=uploading), "the upload")
            uploader = run.stage.told("uploading", member=uploading)[0]["pid"]
            run.stage.hold(uploading, 7)
            self.remove(node)
            wait_until(lambda: state_of(uploader) is None, "the end of the worker that uploads")
            run.stage.upload_gate(uploading).unlink()
            run.stage.let_go(untouched)
            # Its worker is free now for one of the two that lost theirs.
            wait_until(lambda: max(run.term(uploading), run.term(beside)) == 2, f"a new term; {run.progress.notes}")
            struck_twice = uploading if run.term(uploading) == 2 else beside
            wait_until(lambda: not self.actors("PENDING_CREATION"), "nobody to wait for places that are gone")
            self.remove(run.node_of(hit_later))
            attempts = {uploading: 1, beside: 1, hit_later: 1, struck_twice: 2}
            wait_until(
                lambda: all(run.num_ended(member) == ended for member, ended in attempts.items()), "the loss of all"
            )
            run.turns(5)
            waited = run.goes_on and self.alive() == {self.cluster.head_node.node_id}
            back = time.monotonic()
            self.renew_nodes()
            struck = (uploading, beside, hit_later)  # held, so that one node's two workers cannot have them all
            wait_until(lambda: all(run.node_of(member) in self.nodes for member in struck), "all to be trained again")
            run.stage.let_go(*struck)
            to_progress = run.progressed(hit_later, back, 2)
        return {
            **run.seen(),
            "joined": sorted(self.nodes),
            "roles": {"uploading": uploading, "beside": beside, "untouched": untouched, "hit_later": hit_later},
            "waited": waited,
            "to_progress": to_progress,
        }

    def preempted(self) -> Seen:
        """A node is announced to go. One worker saves at once; the upload of the other does not end in time."""
        run = self.run("preempted", 4, every=4)
        for member in range(4):
            run.stage.hold(member, 7)
        with run.running():
            for member in range(4):
                run.held(member, 7)
            node = run.node_of(0)
            saving, too_slow = (member for member in range(4) if run.node_of(member) == node)
            elsewhere = [member for member in range(4) if run.node_of(member) != node]
            run.stage.upload_gate(too_slow).touch()
            noticed = self.announce(node)
            wait_until(lambda: run.records(saving)[-1].body.get("epoch") == 6, "the checkpoint of epoch 6")
            to_save = time.monotonic() - noticed
            wait_until(lambda: run.stage.told("uploading", member=too_slow), "the upload that takes too long")
            uploader = run.stage.told("uploading", member=too_slow)[0]["pid"]
            # The worker that saved is ended: its place on the node is free, and nobody may take it.
            wait_until(lambda: len(self.actors("ALIVE")) == 3, "the end of the worker that saved")
            run.stage.let_go(elsewhere[0])
            run.held(saving, 7, term=2)
            removed = self.remove(node)
            wait_until(lambda: state_of(uploader) is None, "the end of the worker that uploads")
            run.stage.upload_gate(too_slow).unlink()
            run.stage.let_go(saving, too_slow, elsewhere[1])
            to_progress = run.progressed(too_slow, removed, 2)
        return {
            **run.seen(),
            "roles": {"saving": saving, "too_slow": too_slow, "elsewhere": elsewhere},
            "node": node,
            "warned": [event.remaining_s for event in run.cluster.heard if isinstance(event, ev.NodeDraining)],
            "to_save": to_save,
            "to_progress": to_progress,
        }

    def late(self) -> Seen:
        """The deadline comes while a member is held."""
        run = self.run("late", 2, every=1000, ensemble={"deadline": 2.0})
        run.stage.hold(1, 6)
        run.clock.stand_still()  # however long it takes to start
        with run.running():
            run.held(1, 6)
            wait_until(lambda: any(record.kind == "final" for record in run.records(0)), "member 0 to be published")
            run.clock.go_on()
        return run.seen()

    def memory(self) -> Seen:
        """Ray's monitor ends a worker that takes more memory than its node has.

        Ray looks at the whole machine, where other tests take and return memory meanwhile: the worker has room for more
        than they take, and would take more than they return.
        """
        before = set(self.nodes)
        for node in before:
            self.remove(node)
        wait_until(lambda: before.isdisjoint(self.alive()), "the loss of the nodes before")
        total, used = ray._common.utils.get_system_memory(), ray._private.utils.get_used_memory()
        room, most = (total - used) // 6, (total - used) * 3 // 4
        threshold = (used + room) / total
        env = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
        node = self.add_node(num_cpus=1, env_vars=env)
        self.nodes[node.node_id] = node
        run = self.run("memory", 2, workers=1, faults=Faults(hungry={0: (5, most)}))
        with run.running():
            pass
        return {**run.seen(), "taken": max(note["taken"] for note in run.stage.told("takes memory")), "most": most}

    def closed(self) -> Seen:
        """A cluster is closed while its workers train; and a worker that nobody listens to ends itself."""
        self.renew_nodes()
        run = self.run("closed", 2, patience={"stop_grace_s": 0})
        for member in range(2):
            run.stage.hold(member, 5)
        with run.running():
            pids = [run.held(member, 5)["pid"] for member in range(2)]
            run.stop()
        wait_until(lambda: all(state_of(pid) is None for pid in pids), "the end of the workers' processes")
        left = self.actors("ALIVE") + self.actors("PENDING_CREATION")
        withdrawn = self.withdraw(run)
        deserted = ray.remote(Worker).options(num_cpus=0).remote(run.setup, run.program, deserted_s=0.5)
        pid = ray.get(deserted.events.remote(1.0))[0].pid
        wait_until(lambda: state_of(pid) is None, "the end of a deserted worker")
        return {"left": left, "withdrawn": withdrawn, "exit_code": run.seen()["exit_code"]}

    def head_lost(self) -> Seen:
        """The head's process is killed in mid-run."""
        run = self.run("head", 2, run_id="head", head=Head(silence_s=HEAD_SILENCE_S))
        for member in range(2):
            run.stage.hold(member, 5)
        with run.running():
            for member in range(2):
                run.held(member, 5)
            gcs = self.cluster.head_node.all_processes["gcs_server"][0].process.pid
            killed = strike(gcs, signal.SIGKILL)
            wait_until(lambda: not run.goes_on, "the end of the run")
            took = time.monotonic() - killed
        return {**run.seen(), "took": took, "gone": state_of(gcs) is None}

    def resumed(self) -> Seen:
        """The run whose head was lost goes on, on another cluster."""
        run = self.run("head", 2, run_id="head")
        run.stage.let_go(0, 1)
        with run.running():
            pass
        return run.seen()

    def withdraw(self, run: LightRun) -> list[str]:
        """What a worker says that is told to save and stop before it was ready to train; the run is over."""
        run.stage.start_gate.touch()
        claims = len(run.stage.told("claim"))
        worker = ray.remote(Worker).options(num_cpus=0, max_concurrency=3).remote(run.setup, run.program)
        ray.get(worker.command.remote(train_alone("", 0), None))
        ray.get(worker.interrupt.remote(cmd.SaveNow("", stop=True)))
        said = [type(event).__name__ for event in ray.get(worker.events.remote(1.0))]
        run.stage.start_gate.unlink()
        ray.get(worker.command.remote(cmd.KillWorker(""), None))  # nothing to do for a program: idle when ready
        said += [type(event).__name__ for event in ray.get(worker.events.remote(30.0))]
        ray.kill(worker)
        return [*said, f"{len(run.stage.told('claim')) - claims} claims"]

    def announce(self, node: str) -> float:
        """Give notice, as a cloud does of a spot machine, that a node will be taken away in a minute."""
        head = ray._raylet.GcsClient(address=self.cluster.gcs_address)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why = head.drain_node(node, reason, "spot", int((time.time() + 60) * 1000))
        if not accepted:
            raise RuntimeError(f"Ray refuses to drain {node}: {why}")
        return time.monotonic()

    def actors(self, state: str) -> list[str]:
        """Ids of the actors in that state."""
        known = ray._private.state.actors()
        return [actor for actor, about in known.items() if about["State"] == state]


def run_cases(folder: Path, *names: str) -> Seen:
    """Run cases on one cluster; one that raises leaves its traceback."""
    began = time.monotonic()
    cases = Cases(folder)
    seen: Seen = {"timing": {f"start of {names[0]}": time.monotonic() - began}}
    try:
        for name in names:
            began = time.monotonic()
            case: Callable[[], Seen] = getattr(cases, name)
            try:
                if name not in ("memory", "closed"):
                    cases.renew_nodes()
                seen[name] = case()
            except Exception:
                seen[name] = {"error": traceback.format_exc()}
            seen["timing"][name] = time.monotonic() - began
    finally:
        ray.shutdown()
        cases.cluster.shutdown()
    return seen


def main(folder: Path, *names: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))  # in order, so that the nodes end too
    everything = ("crashes", "partition", "nodes_lost", "preempted", "late", "memory", "closed", "head_lost")
    seen = run_cases(folder, *(names or everything))
    (folder / f"{'-'.join(names) or 'all'}.json").write_text(json.dumps(seen, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
