"""The loop: poll events → `schedule.step` → carry out commands. It knows ports only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.ensemble.asked import deciding_output
from orchestrator.ensemble.metrics import METRICS
from orchestrator.errors import (
    AccessDenied,
    CredentialsExpired,
    Fenced,
    IdentityChanged,
    Interrupted,
    OrchestratorError,
)
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.naming import prefix_of
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.packs import packing_rules, packs_to_json
from orchestrator.planning.placement import Crew, Placing
from orchestrator.planning.plan import Plan
from orchestrator.planning.policies import StopRule
from orchestrator.planning.ports import Clock, Cluster, Sampler, Store
from orchestrator.planning.recovery import MemberMemory, RunMemory, read_run
from orchestrator.planning.schedule import Settings, State, begin, step
from orchestrator.planning.schedule_state import SearchRules
from orchestrator.reporting.attempts import printable
from orchestrator.reporting.ending import kind_of_end, record_end
from orchestrator.reporting.facts import member_facts, notes_of, stop_facts, stop_notes, tasks_told
from orchestrator.reporting.observer import Observer, Unobserved
from orchestrator.reporting.prefixes import StoredPrefixes
from orchestrator.reporting.progress import Progress, own_metrics
from orchestrator.reporting.publish import finish, finished_result
from orchestrator.reporting.result import Result
from orchestrator.reporting.selection import RunFacts, make_selection
from orchestrator.search.run_search import RunSearch
from orchestrator.search.study import References
from orchestrator.spec import Job, deadline_at
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.looks import mark_look, other_looks
from orchestrator.storage.members import MemberLogs
from orchestrator.storage.stops import StopRequests

POLL_S = 0.5


@dataclass(frozen=True)
class RunRequest:
    """One execution of a job: what it is, where it lives in the store, and what its result has to say of it."""

    job: Job
    plan: Plan
    layout: RunLayout
    run_id: str
    spec_digest: str
    code_digest: str
    notes: tuple[str, ...] = ()


class Controller:
    """Runs one job to its result, or to a documented error.

    Args:
        request: what to run.
        store: where it lasts.
        log: the coordinator's log, claimed: from here on we are the run's only coordinator.
        cluster: the workers.
        clock: the time.
        progress: what people see.
        crew: the workers that train side by side.
        solo_crew: those to have instead where members turn out to be trained one by one; None: the same.
        placing: what decides of them when nodes come or go; None: they stay as many.
        give_up_at: monotonic second at which to end with `TimedOut`; None: never.
        interruption: asked at each turn; an error that it returns ends the run (signals). It returns each one once.
        sampler: of a job with a search, at its beginning.
        stop_requests: keys of the requests to stop; None: listed here, which a store out of reach holds up.
        observer: who measures the run.
    """

    def __init__(
        self,
        request: RunRequest,
        *,
        store: Store,
        log: Log,
        cluster: Cluster,
        clock: Clock,
        progress: Progress,
        crew: Crew,
        solo_crew: Crew | None = None,
        placing: Placing | None = None,
        give_up_at: float | None = None,
        interruption: Callable[[], OrchestratorError | None] = lambda: None,
        sampler: Sampler | None = None,
        stop_requests: Callable[[], Iterable[str]] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._observer = observer or Unobserved()
        self._stops = StopRequests(store, request.layout, log, clock, stop_requests, progress.note)
        self._outputs: tuple[str, ...] = (ONLY,)
        self._request = request
        self._store = store
        self._log = log
        self._cluster = cluster
        self._clock = clock
        self._progress = progress
        self._interruption = interruption
        self._crew = crew
        self._solo_crew = solo_crew
        self._placing = placing
        self._give_up_at = give_up_at
        self._plan = request.plan
        self._members = MemberLogs(store, request.layout, coord_term=log.term, run_id=request.run_id, clock=clock)
        self._search = None if sampler is None else RunSearch(request.job, sampler, log, self._members, clock)
        self._opened: Mapping[str, Any] = {}
        self._scored_rows: tuple[str, ...] = ()
        self._prefixes: StoredPrefixes | None = None
        self._granted = False
        self._retried: set[int] = set()
        self._answers: list[ev.Event] = []

    def run(self) -> Result:
        """Train what is missing, select, evaluate, publish; or finish, or return, what a predecessor has decided.

        Raises:
            OrchestratorError: with the exit code that design and documentation promise; what is recorded stands.
        """
        try:
            result = self._run()
        except BaseException as error:
            self._observer.ended(kind_of_end(error))
            raise
        self._observer.ended(result.status)
        return result

    def _run(self) -> Result:
        self._stops.begin()
        memory = read_run(self._log.records())
        if memory.done is not None:  # finished by another while this coordinator was starting
            return finished_result(self._store, self._request.layout, memory)
        try:
            if memory.selection is not None:
                self._progress.note("a predecessor has fixed the selection: finishing it")
                return self._finish(memory.selection)
            return self._train_and_finish(memory)
        except Fenced:
            raise  # a successor owns the log: nothing more may be written
        except KeyboardInterrupt:  # from a notebook; the command line turns signals into `interruption`
            error = Interrupted("interrupted", hint="start again to resume", signal_number=2)
            record_end(self._log, error, self._clock, self._progress)
            raise error from None
        except OrchestratorError as error:
            expired = self._in_mid_run(error)
            record_end(self._log, expired or error, self._clock, self._progress)
            if expired is None:
                raise
            raise expired from error

    def _train_and_finish(self, memory: RunMemory) -> Result:
        if self._search is not None:
            self._plan = self._search.begin(memory)
        members = self._members.read_all(member.index for member in self._plan.members)
        state, commands = begin(
            self._make_settings(memory),
            self._clock.monotonic(),
            memory,
            trained=[i for i, member in members.items() if member.final is not None],
            diverged={i: member.diverged for i, member in members.items() if member.diverged is not None},
            late=[i for i, member in members.items() if member.final is not None and member.final.get("late")],
        )
        self._tell_plan(state)
        selected = self._carry_out(commands)
        while selected is None:
            happened = deque([*self._happened(), ev.Tick()])
            while happened:
                event = happened.popleft()
                self._observe(event, memory)
                state, commands = step(state, event, self._clock.monotonic())
                selected = self._carry_out(commands) or selected
                happened.extendleft(reversed(self._answers))  # before what happened later: a score may end training
                self._answers.clear()
            self._observer.stands(state.members)
        return self._select(state, memory)

    def _make_settings(self, memory: RunMemory) -> Settings:
        job, rule = self._request.job, self._stop_rule()
        return Settings(
            plan=self._plan,
            search=None
            if job.search is None
            else SearchRules(
                job.search.generation,
                job.search.num_trials,
                job.members.count,
                () if self._search is None else self._search.pruned(),
            ),
            crew=self._crew,
            solo_crew=self._solo_crew,
            placing=self._placing,
            packing=packing_rules(job),
            stop_rule=rule,
            faults=job.faults,
            quorum=job.ensemble.quorum,
            seed=job.seed,
            deadline=self._give_up_at,
            cutoff=self._cutoff(memory),
        )

    def _stop_rule(self) -> StopRule | None:
        asked = self._request.job.ensemble.stop_when
        if asked is None:
            return None
        return StopRule(asked.metric, METRICS[asked.metric].greater_is_better, asked.min_delta, asked.patience)

    def _cutoff(self, memory: RunMemory) -> float | None:
        """The job's deadline on this process' monotonic clock: every coordinator of the run counts from its start."""
        deadline = self._request.job.ensemble.deadline
        if deadline is None:
            return None
        now = self._clock.epoch()
        began = now if memory.first_claim_at is None else memory.first_claim_at
        return self._clock.monotonic() + deadline_at(deadline, began) - now

    def _in_mid_run(self, error: OrchestratorError) -> CredentialsExpired | None:
        """What was granted at the start and is refused now has expired: worth a retry, unlike wrong credentials.

        Granted: a worker has passed the preflight, and has written what it found there. A worker may have other
        credentials than this process.
        """
        if not isinstance(error, AccessDenied) or not self._granted:
            return None
        return CredentialsExpired(
            f"storage refuses in mid-run: {error.what}",
            where=error.where,
            hint="renew the credentials and start again to resume",
        )

    def _happened(self) -> Iterable[ev.Event]:
        events = self._cluster.poll(POLL_S)
        error = self._interruption() or self._stops.look()
        # Before what else happened: a signal to the whole process group ends the workers, too; none is to replace them.
        return [ev.StopRequested(error), *events] if error else events

    def _carry_out(self, commands: Sequence[cmd.Command]) -> cmd.Select | None:
        selected = None
        for command in commands:
            self._observer.ordered(command)
            match command:
                case cmd.RecordEnded():
                    self._log.append(
                        "ended",
                        member=command.member,
                        attempt=command.attempt,
                        cause=command.cause.value,
                        message=command.message[:2000],
                        at=self._clock.epoch(),
                    )
                    self._retried.add(command.member)
                case cmd.Void(member=member, reason=reason):
                    self._members.void(member, reason)
                case cmd.RecordFailed(member=member, cause=cause, message=message):
                    self._members.record_failed(member, cause, message)
                case cmd.Note(text=text):
                    self._progress.note(text)
                case cmd.Select():
                    self._progress.note(command.reason)
                    selected = command
                case cmd.Abort(error=error):
                    raise error
                case cmd.RecordPacked(packs=packs, reason=reason):
                    self._log.append("packed", packs=packs_to_json(packs), reason=reason)
                case cmd.ScorePrefix():
                    self._answers.append(self._score(command))
                case cmd.AskTrials(predictions=predictions):
                    self._answers.append(self._ask_trials(predictions))
                case cmd.RecordEnough(num_members=num_members, scores=scores, reason=reason):
                    self._log.append(
                        "enough", num_members=num_members, scores=scores, reason=reason, at=self._clock.epoch()
                    )
                case cmd.TrainPack(worker=worker, members=members):
                    left = self._tell_settled(worker, members)
                    if left or command.predict:
                        self._cluster.send([replace(command, members=left)])
                    else:
                        self._answers.append(ev.WorkerIdle(worker))
                case cmd.PublishLate(worker=worker, member=member):
                    if self._tell_settled(worker, [member]):
                        self._cluster.send([command])
                    else:
                        self._answers.append(ev.WorkerIdle(worker))
                case _:
                    self._cluster.send([command])
        return selected

    def _make_prefixes(self, passed: ev.PreflightPassed) -> StoredPrefixes | None:
        job, rule = self._request.job, self._request.job.ensemble.stop_when
        if rule is None:
            return None
        return StoredPrefixes(
            job, rule.metric, tasks_told(passed), passed.labels, lambda ref: get_blob(self._store, ref)
        )

    def _score(self, command: cmd.ScorePrefix) -> ev.PrefixScored:
        if self._prefixes is None:
            raise OrchestratorError("members were scored before the preflight", where=self._request.run_id)
        score = self._prefixes.score(command.num_members - 1, command.predictions)
        return ev.PrefixScored(command.num_members, score)

    def _ask_trials(self, predictions: Mapping[int, References]) -> ev.TrialsAsked:
        if self._search is None:
            raise OrchestratorError("trials were asked for without a search", where=self._request.run_id)
        asked = self._search.ask(predictions)
        if not asked.over:
            more, self._plan = len(asked.plan.members) > len(self._plan.members), asked.plan
            if more:  # a rung has the trials that there were
                self._progress.planned(len(self._plan.members), self._crew.num_workers, self._request.run_id)
        return asked

    def _tell_settled(self, worker: str, indices: Iterable[int]) -> tuple[int, ...]:
        """Tell what a lost worker had published before it could say so, and return whom there is something to do for.

        A published member is not claimed again: only a `void` record takes its model back.
        """
        left: list[int] = []
        for index in indices:
            memory = self._members.read(index) if index in self._retried else MemberMemory()
            if memory.final is not None:
                self._answers.append(ev.MemberTrained(worker, index, late=bool(memory.final.get("late"))))
            elif memory.diverged is not None:
                self._answers.append(ev.MemberDiverged(worker, index, memory.diverged))
            else:
                left.append(index)
        return tuple(left)

    def _observe(self, event: ev.Event, memory: RunMemory) -> None:
        """Effects of what happened that are no decisions: progress for people, and the run's opening record."""
        if isinstance(event, ev.EpochEnded):
            event = replace(event, logs=self._shown(event.logs))
        self._observer.happened(event)
        match event:
            case ev.DataLoaded():
                self._open(event, memory)
            case ev.PreflightPassed():
                self._granted = True
                self._outputs = tuple(event.tasks)
                self._mark_looks()
                self._prefixes = self._prefixes or self._make_prefixes(event)
                if self._search is not None:
                    self._search.score_with(tasks_told(event), event.labels, lambda ref: get_blob(self._store, ref))
            case ev.EpochEnded():
                self._progress.epoch(event.member, event.epoch, event.epochs, event.logs)
            case ev.Printed(members=members, line=line):
                self._progress.note(f"{prefix_of(members)} {printable(line)}")
            case ev.MemberTrained(member=member, late=late):
                self._progress.member(member, "trained", "its best so far: the deadline has come" if late else None)
            case ev.MemberPredicted(member=member):
                self._progress.member(member, "succeeded")
            case ev.MemberDiverged(member=member, message=message):
                self._progress.member(member, "diverged", message)
            case ev.AttemptFailed(member=member, message=message):
                self._progress.member(member, "failed", message)
            case ev.ModelLost(member=member, message=message):
                self._progress.member(member, "waiting", message)
            case ev.WorkerFenced() | ev.WorkerFailed():
                self._check_still_ours()

    def _shown(self, logs: Mapping[str, float]) -> Mapping[str, float]:
        """What Keras reported of the output that decides, and of what is monitored."""
        job = self._request.job
        watched = [s.monitor for s in (job.train.early_stopping, job.train.checkpoint) if s is not None]
        return own_metrics(logs, deciding_output(job.ensemble, self._outputs), self._outputs, watched)

    def _open(self, event: ev.DataLoaded, memory: RunMemory) -> None:
        rows = ", ".join(f"{count:,} {name}" for name, count in event.rows.items())
        self._progress.note(f"data: {rows} rows")
        if memory.opened is not None:
            before = memory.opened["data_fingerprint"]
            if before != event.fingerprint:
                raise IdentityChanged(
                    f"the data has changed since this run began: fingerprint {before[:12]}… → "
                    f"{event.fingerprint[:12]}…",
                    where=f"run {self._request.run_id}",
                    hint="restore the data, or start a new run with --fresh",
                )
            self._opened = memory.opened
        else:
            self._opened = self._log.append(
                "opened",
                identity=self._request.spec_digest,
                data_fingerprint=event.fingerprint,
                rows=event.rows,
                **({"class_names": dict(event.class_names)} if event.class_names else {}),
                started_at=self._clock.epoch(),
            ).body
        self._scored_rows = tuple(event.row_digests.values())

    def _mark_looks(self) -> None:
        """From here on rows are looked at; what the preflight refuses has looked at none."""
        search = self._request.job.search
        num_members, num_trials = len(self._plan.members), 0
        if search is not None:
            num_members, num_trials = self._request.job.members.count, search.num_trials
        mark_look(self._store, self._request.layout, self._scored_rows, members=num_members, trials=num_trials)

    def _check_still_ours(self) -> None:
        """A worker says it was superseded: if a successor of ours did that, we must end as well."""
        for record in self._log.refresh():
            raise Fenced(f"another coordinator has taken the run over (term {record.term})", where=self._request.run_id)

    def _tell_plan(self, state: State) -> None:
        self._progress.planned(len(state.members), self._crew.num_workers, self._request.run_id)
        for index, member in state.members.items():
            if member.status != "waiting":
                self._progress.member(index, member.status, "from an earlier start of this run")

    def _select(self, state: State, memory: RunMemory) -> Result:
        """All members are through: fix the selection in the log, then finish it."""
        request, passed = self._request, state.preflight
        if passed is None:
            raise OrchestratorError("members were selected before the preflight", where=request.run_id)
        published = self._members.read_all(member.index for member in self._plan.members)
        members = [member_facts(plan, state, published.get(plan.index, MemberMemory())) for plan in self._plan.members]
        stopped = stop_facts(state, members)
        done = {i: member.predictions for i, member in state.members.items() if member.status == "done"}
        began = float(memory.first_claim_at or self._opened["started_at"])  # claims of old versions do not say when
        run = RunFacts(
            run_id=request.run_id,
            attempt=self._log.term,
            tasks=tasks_told(passed),
            labels=passed.labels,
            timing={
                "total_s": round(self._clock.epoch() - began, 3),
                "members_s": round(sum(float((m.final or {}).get("train_s", 0.0)) for m in members), 3),
            },
            spec_digest=request.spec_digest,
            code_digest=request.code_digest,
            data_fingerprint=str(self._opened["data_fingerprint"]),
            versions=passed.versions,
            notes=(*notes_of(passed, memory), *stop_notes(stopped), *request.notes),
            stop_when=stopped,
            search=None if self._search is None else self._search.facts(done),
            examples=passed.examples,
            bases=memory.bases,
            codes=passed.codes,
            runs_before=asdict(other_looks(self._store, request.layout, self._scored_rows)),
        )
        selection = make_selection(request.job, run, members, lambda ref: get_blob(self._store, ref))
        record = self._log.append("selection", **selection)
        return self._finish(record.body)

    def _finish(self, selection: Mapping[str, Any]) -> Result:
        request = self._request
        return finish(self._store, request.layout, self._log, selection, request.job.report)
