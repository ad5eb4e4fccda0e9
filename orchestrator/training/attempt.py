"""What an attempt leaves in storage besides its records: its log in chunks, and the files that callbacks write."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import deque
from pathlib import Path

from orchestrator.errors import OrchestratorError, TryAgain
from orchestrator.planning.ports import Store
from orchestrator.storage.redact import redact

MAX_UNSENT_CHARS = 4 * 2**20
"""What is kept while the store is out of reach; older text is dropped beyond that, one whole write after another."""

_DROPPED = "[what was written before this was lost: storage was out of reach for too long]\n"
_CHUNK = re.compile(r"log-\d+\.txt\Z", re.ASCII)

logger = logging.getLogger("orchestrator.worker")


class AttemptFiles:
    """The log and the files of one attempt. `flush` is for one thread, writing for any.

    Nothing here stops training: a store that is out of reach gets everything at the next flush, or what came last.

    Args:
        store: where they go.
        prefix: from `RunLayout.attempt_prefix`.
        folder: local files below it are kept in storage as they change; it need not exist.
    """

    def __init__(self, store: Store, prefix: str, folder: Path) -> None:
        self._store = store
        self._prefix = prefix
        self._folder = folder
        self._lock = threading.Lock()
        self._unsent: deque[str] = deque()
        self._num_unsent = 0
        self._num_chunks = 0
        self._sent: dict[str, tuple[int, int]] = {}

    def write(self, text: str) -> None:
        """Add to the log."""
        with self._lock:
            self._unsent.append(text)
            self._num_unsent += len(text)
            if self._num_unsent > MAX_UNSENT_CHARS:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Half of it at once: what is dropped is told by a line, not by one line for each write."""
        while self._num_unsent > MAX_UNSENT_CHARS // 2 and len(self._unsent) > 1:
            self._num_unsent -= len(self._unsent.popleft())
        self._unsent.appendleft(_DROPPED)
        self._num_unsent += len(_DROPPED)

    def flush(self) -> None:
        """Send what is new: a chunk of the log, and files that have changed. Never raises what a store does."""
        try:
            self._send_log()
            self._send_files()
        except (OrchestratorError, OSError) as error:
            logger.warning("the attempt's log and files are not in storage yet: %s", error)

    def _send_log(self) -> None:
        with self._lock:
            text = "".join(self._unsent)
            self._unsent.clear()
            self._num_unsent = 0
        if not text:
            return
        try:
            body = redact(text, os.environ).encode("utf-8", "replace")
            self._store.put(f"{self._prefix}/log-{self._num_chunks:05d}.txt", body)
        except (OrchestratorError, OSError):
            with self._lock:
                self._unsent.appendleft(text)
                self._num_unsent += len(text)
            raise
        self._num_chunks += 1

    def _send_files(self) -> None:
        for path in sorted(self._folder.rglob("*")):
            if not path.is_file():
                continue
            name = path.relative_to(self._folder).as_posix()
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size)
            if self._sent.get(name) != version:
                try:
                    if _CHUNK.match(name):
                        raise ValueError("chunks of the log have such names")
                    self._store.put_file(f"{self._prefix}/{name}", str(path))
                except TryAgain:
                    raise
                except (OrchestratorError, OSError, ValueError) as error:  # such as a name that no key can have
                    logger.warning("the file %s of a callback stays behind: %s", ascii(name), error)
                self._sent[name] = version
