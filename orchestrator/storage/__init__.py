"""What lasts: stores, key layout, append-only logs, records and blobs.

The store is the truth and memory is a cache: nothing is visible before its record, and nothing recorded is rewritten.

    layout    the one place that knows key names
    records   one create-only JSON object of a log; a reference to a blob
    log       the append-only log: claim, append, fencing
    blobs     immutable bytes, checked by size and sha256
    probe     refuses a store that cannot keep the promises
    retry     tries again within a deadline
    open      `open_store(url)`: the only way to `local` and `s3`

The adapters are deliberately not re-exported: who imports this package knows the `Store` port, not who implements it.
Neither s3fs nor pyarrow is imported before an `s3://` store is first used.
"""

from orchestrator.storage.blobs import get_blob, get_blob_file, put_blob, put_blob_file
from orchestrator.storage.layout import RunLayout, run_key
from orchestrator.storage.log import Log
from orchestrator.storage.probe import probe
from orchestrator.storage.records import BlobRef, Record

__all__ = [
    "BlobRef",
    "Log",
    "Record",
    "RunLayout",
    "get_blob",
    "get_blob_file",
    "probe",
    "put_blob",
    "put_blob_file",
    "run_key",
]
