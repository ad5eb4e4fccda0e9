"""The rows of the table, one file for each bar of the suite."""

from tests.bench.harness import Row
from tests.bench.rows import (
    blocked_on_storage,
    choice_of_engine,
    evaluation,
    pack_throughput,
    quick_start,
    scaling,
    scheduling,
    start_up,
    whole_job,
)

ROWS: dict[str, Row] = {
    "P1": whole_job.measure,
    "P2": pack_throughput.measure,
    "P3": choice_of_engine.measure,
    "P4": start_up.measure,
    "P5": blocked_on_storage.measure,
    "P6": scheduling.measure,
    "P7": evaluation.measure,
    "P8": quick_start.measure,
    "P10": scaling.measure,
}
