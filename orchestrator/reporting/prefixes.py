"""The scores of growing ensembles in the output that decides, from the stored predictions of their members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.ensemble.asked import deciding_output
from orchestrator.ensemble.prefix import PrefixScores
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.planning.outputs import part
from orchestrator.reporting.predictions import Predictions, Read
from orchestrator.spec import Job
from orchestrator.storage.records import BlobRef
from orchestrator.storage.tables import groups_from_parquet, labels_from_parquet, predictions_from_parquet

References = Mapping[str, Mapping[str, object]]
"""Of stored blobs, by part (`planning.outputs`)."""


class StoredPrefixes:
    """Feeds `PrefixScores` from storage.

    Args:
        job: how members are combined.
        metric: the score.
        tasks: what each output tells, in the order of the model.
        labels: of the scored rows.
        read: gives the verified bytes of a blob; called from several threads.
    """

    def __init__(self, job: Job, metric: str, tasks: Mapping[str, TaskKind], labels: References, read: Read) -> None:
        output = deciding_output(job.ensemble, list(tasks))
        self._part = part("validation", output)
        body = read(BlobRef.from_json(labels[self._part], where=f"labels of {self._part}"))
        targets, groups = labels_from_parquet(body), groups_from_parquet(body)
        self._scores = PrefixScores(tasks[output], targets, job.ensemble, metric, job.seed, groups)
        self._members: list[Mapping[str, Any]] = []
        self._read = read

    def score(self, index: int, predictions: References) -> float | None:
        """The score of the ensemble with one more member; None where that weighs nothing.

        Args:
            index: of the member; indices ascend.
            predictions: of the member.

        Raises:
            OrchestratorError: as `PrefixScores.add`, or what reading the store raises.
        """
        self._members.append({"index": index, "predictions": predictions})
        ref = BlobRef.from_json(predictions[self._part], where=f"member {index}, predictions of {self._part}")
        newest = predictions_from_parquet(self._read(ref))
        return self._scores.add(index, newest, Predictions(self._members, self._part, self._read))
