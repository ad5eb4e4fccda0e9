"""TensorFlow's kernels that draw random numbers by a state of their own, which no checkpoint can hold."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

logger = logging.getLogger("orchestrator.worker")


class Kernels:
    """The kernels of one `fit`. JAX has none that remember.

    TensorFlow's own global seed is set once, before the build: setting it drops compiled kernels (0.1 s per epoch and
    function), and no stock layer of Keras draws from it. Only where the user's own code does (`tf.random.normal` in a
    layer) the kernels, which remember how much they have drawn, are dropped at each epoch; their seeds are fixed when
    the function is traced, so each epoch draws the same numbers again, which a warning says.

    Args:
        seed: of the member.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._draws: bool | None = None

    def forget(self, model: keras.Model) -> None:
        """Let kernels begin anew if training or testing draws from them; both functions must have been traced."""
        import tensorflow as tf

        if self._draws is None:
            functions = (model.train_function, model.test_function)
            self._draws = any(draws_by_state(function) for function in functions if function is not None)
            if self._draws:
                logger.warning(
                    "the model draws random numbers by TensorFlow's stateful operations (such as tf.random.normal), "
                    "which begin anew at each epoch so that it can be resumed: keras.random with a SeedGenerator gives "
                    "each epoch its own numbers, and is faster"
                )
        if self._draws:
            tf.random.set_seed(self._seed)  # drops kernels, and with them what they have drawn so far


_STATEFUL_DRAWS = frozenset(
    {
        *("Multinomial", "ParameterizedTruncatedNormal", "RandomGamma", "RandomPoisson", "RandomPoissonV2"),
        *("RandomShuffle", "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "TruncatedNormal"),
        *("RandomCrop", "SampleDistortedBoundingBox", "SampleDistortedBoundingBoxV2"),
    }
)
"""TensorFlow's random operations whose state lives in their kernel."""


def draws_by_state(function: Callable[..., Any]) -> bool:
    """Whether a traced training or test function draws random numbers from the state of kernels.

    Keras keeps the traced functions in the closure of `model.train_function`; true where none is found there.
    """
    inner = inspect.getclosurevars(function).nonlocals.values()
    traced = [each for each in [function, *inner] if hasattr(each, "_list_all_concrete_functions")]
    graphs = [concrete.graph.as_graph_def() for each in traced for concrete in each._list_all_concrete_functions()]
    if not graphs:
        return True
    bodies = [graph.node for graph in graphs] + [body.node_def for graph in graphs for body in graph.library.function]
    return any(node.op in _STATEFUL_DRAWS for nodes in bodies for node in nodes)
