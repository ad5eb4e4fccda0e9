"""Published weights into a model that the job's own code built. A stored model is never opened by `load_model`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import DamagedStore

if TYPE_CHECKING:
    import keras


def load_published(model: keras.Model, path: str, where: str) -> None:
    """Load the weights of a `.keras` file, whose sha256 the caller has verified, into `model`.

    Args:
        model: built by the job's build function for that member.
        path: the local, verified file.
        where: the storage key, for the message.

    Raises:
        DamagedStore: the weights do not fit the model: the job's code no longer builds what was published.
    """
    try:
        model.load_weights(path)
    except Exception as error:
        raise DamagedStore(
            f"the published weights do not fit the model that the job's code builds now: {error}", where=where
        ) from error
