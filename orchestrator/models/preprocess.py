"""Fitted preprocessing as stock Keras layers in front of the user's model: what is saved takes raw rows, anywhere.

The layers of a Sequential or functional model stand in the model that comes out, under their own names; a model of a
class of the user's own stands in it as one layer. Either way `layers` begins with inputs and preprocessing: go by name,
or count from the end. `layer.output` of a live model belongs to the graph that the builder made, which has no
preprocessing; a model that is loaded from a file has one graph only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InvalidData, InvalidJob, InvalidModel
from orchestrator.models.first_batch import first_line
from orchestrator.models.preprocess_fit import Affine, FittedInput, FittedStep, OneHot, Preprocessing, Reshape

if TYPE_CHECKING:
    import keras

PREFIX = "preprocess"
"""Names of our layers begin with it."""

_OF_TRAINING = ("train_step", "test_step", "compute_loss", "compute_metrics", "make_train_function", "compile")
"""What a class of the user's own may do in another way, which the model around it would not know of."""


def put_in_front(model: keras.Model, preprocessing: Preprocessing, where: str) -> keras.Model:
    """The model that prepares raw rows and hands them to `model`, compiled as that one is.

    Args:
        model: as the build function returned it; its layers and weights are used, not copied.
        preprocessing: fitted to raw training rows.
        where: names the model in messages.

    Returns:
        A functional model. It takes raw rows under the names of the model's own inputs (under those of the data where
        the model names none), and its outputs have the names that they had.

    Raises:
        InvalidModel: its inputs do not have the shapes that rows have after preprocessing, or its class trains in a way
            of its own.
        InvalidData: the model has an input that the data has not.
        InvalidJob: Keras is set to images whose channels come first.
    """
    import keras

    _check(model, where)
    _check_prepared_once(model, preprocessing, where)
    raw, prepared = _ends(model, preprocessing, where)
    try:
        outputs = _run(model, prepared)
    except Exception as error:
        shapes = ", ".join(f"{end.shape[1:]}" for end in _flat(prepared))
        raise InvalidModel(
            f"the model does not take rows of shape {shapes}, which they have after data.preprocess: "
            f"{first_line(error)}",
            where=where,
        ) from error
    if _is_subclassed(model) and len(_flat(outputs)) > 1:
        raise InvalidModel(
            "data.preprocess cannot stand in front of a class of your own with several outputs",
            where=where,
            hint="build the model with the functional API, or put preprocessing layers into it",
        )
    whole = keras.Model(raw, outputs, name=model.name)
    if model.compiled:
        # The optimizer as it is: after compile() the builder may have told it what to spare from weight decay.
        whole.compile(**{**model._compile_config.config, "optimizer": model.optimizer})
        model.optimizer, model.compiled = None, False  # within the whole it is a layer, and saved as one
    return whole


def _ends(model: keras.Model, preprocessing: Preprocessing, where: str) -> tuple[Any, Any]:
    """Raw inputs, and what they are after preprocessing, both in the structure of the model's own inputs."""
    import keras

    declared = _declared(model)
    if declared is not None:
        flat = _flat(declared)
        chosen = {_name(end): _of_data(_name(end), preprocessing, len(flat), where) for end in flat}
        entered = {_name(end): _enter(*chosen[_name(end)], end, where) for end in flat}
        raw = keras.tree.map_structure(lambda end: entered[_name(end)][0], declared)
        return raw, keras.tree.map_structure(lambda end: entered[_name(end)][1], declared)
    named = {name: _enter(name, fitted, None, where) for name, fitted in preprocessing.inputs.items()}
    if "" in named or (_is_sequential(model) and len(named) == 1):
        [only] = named.values()
        return only
    return {name: ends[0] for name, ends in named.items()}, {name: ends[1] for name, ends in named.items()}


def _check(model: keras.Model, where: str) -> None:
    import keras
    from keras.src.models.functional import Functional

    if keras.config.image_data_format() == "channels_first":
        raise InvalidJob(
            "Keras is set to channels_first, and the steps of preprocessing count channels last",
            where="data.preprocess",
            hint="leave image_data_format as it is, or put preprocessing layers into the model",
        )
    kind = type(model)
    if kind.__module__.partition(".")[0] == "keras":
        return
    inherited = Functional if isinstance(model, Functional) else keras.Model
    own = [name for name in _OF_TRAINING if getattr(kind, name) is not getattr(inherited, name)]
    if isinstance(model, Functional | keras.Sequential) and kind.call is not inherited.call:
        own.append("call")
    if own:
        raise InvalidModel(
            f"data.preprocess cannot stand in front of {kind.__name__}, which has a {own[0]} of its own",
            where=where,
            hint="put preprocessing layers, such as keras.layers.Normalization, into the model, and leave "
            "data.preprocess out",
        )


def _check_prepared_once(model: keras.Model, preprocessing: Preprocessing, where: str) -> None:
    """A base from a run with `data.preprocess` begins with layers of ours, and takes raw rows."""
    ours = [_label(name, n) + "_" for name, fitted in preprocessing.inputs.items() for n, _ in enumerate(fitted.steps)]
    twice = next((layer.name for layer in model._flatten_layers() if layer.name.startswith(tuple(ours))), None)
    if twice is not None:
        raise InvalidModel(
            f"the model prepares raw rows already, by its layer {twice!r}, and data.preprocess would do it once more",
            where=where,
            hint="leave data.preprocess out: a base that was trained with it takes raw rows; or use the base's layers "
            "behind those",
        )


def _declared(model: keras.Model) -> Any:
    """The model's own inputs in their structure; None where it takes its shape from its first rows."""
    if _is_subclassed(model):
        return None
    if _is_sequential(model):
        return model.inputs[0] if model.built and model._functional else None
    return model.input


def _is_sequential(model: keras.Model) -> bool:
    import keras

    return isinstance(model, keras.Sequential)


def _is_subclassed(model: keras.Model) -> bool:
    from keras.src.models.functional import Functional

    return not (_is_sequential(model) or isinstance(model, Functional))


def _flat(structure: Any) -> list[Any]:
    import keras

    return list(keras.tree.flatten(structure))


def _name(end: Any) -> str:
    """Of an input: that of its layer; the tensor of one without a name is called after Keras' count of tensors."""
    return str(end._keras_history.operation.name)


def _of_data(name: str, preprocessing: Preprocessing, num_inputs: int, where: str) -> tuple[str, FittedInput]:
    """The data's input, with its name there, that goes into a model's input of that name."""
    inputs = preprocessing.inputs
    if "" in inputs and num_inputs == 1:
        return "", inputs[""]
    if name in inputs:
        return name, inputs[name]
    has = f"inputs {', '.join(sorted(inputs))}" if "" not in inputs else "one array"
    raise InvalidData(
        f"the model has an input {name}, and the data has {has}",
        where=where,
        hint="the data function returns x as a dictionary by the names of the model's inputs",
    )


def _enter(name: str, fitted: FittedInput, end: Any, where: str) -> tuple[Any, Any]:
    """A raw input and what it is after preprocessing; `end` is the model's own input, where it has one."""
    import keras

    if not fitted.steps and end is not None:
        raw = keras.Input(batch_shape=end.shape, dtype=end.dtype, name=_name(end))
        return raw, raw
    named = _name(end) if end is not None else name or None
    raw = value = keras.Input(shape=fitted.row_shape, dtype=fitted.dtype, name=named)
    layers = [layer for number, step in enumerate(fitted.steps) for layer in _layers(step, _label(name, number))]
    for layer in layers:
        value = layer(value)
    return raw, value if end is None else _fitting(value, fitted, end, name, where)


def _label(name: str, number: int) -> str:
    return "_".join(filter(None, [PREFIX, name, str(number)]))


def _layers(step: FittedStep, label: str) -> Iterator[keras.layers.Layer]:
    """Layers of one step. In float32 whatever the builder's policy: raw numbers are beyond what float16 can hold."""
    import keras

    match step:
        case Affine(center, scale, offset):
            # Not Normalization: it takes a deviation below 1e-7 for 1e-7, and scales what is constant up, not to 0.
            if center.any():
                yield keras.layers.Rescaling(1.0, -center, dtype="float32", name=f"{label}_shift")
            yield keras.layers.Rescaling(_plain(scale), offset, dtype="float32", name=f"{label}_scale")
        case OneHot(num_classes):
            yield keras.layers.CategoryEncoding(num_classes, "one_hot", dtype="float32", name=f"{label}_one_hot")
        case Reshape(shape):
            yield keras.layers.Reshape(shape, dtype="float32", name=f"{label}_reshape")


def _plain(scale: Any) -> Any:
    return scale if scale.ndim else float(scale)


def _fitting(value: Any, fitted: FittedInput, end: Any, name: str, where: str) -> Any:
    """As the model's own input takes it: with or without a last axis of 1, as Keras does for what it is given."""
    import keras

    have, wanted = tuple(value.shape[1:]), tuple(end.shape[1:])
    if _agree(have, wanted):
        return value
    if _agree((*have, 1), wanted) or (have[-1:] == (1,) and _agree(have[:-1], wanted)):
        shape = (*have, 1) if len(have) < len(wanted) else have[:-1]
        return keras.layers.Reshape(shape, dtype="float32", name=f"{_label(name, len(fitted.steps))}_reshape")(value)
    raise InvalidModel(
        f"the input {_name(end)} takes rows of shape {wanted}; data.preprocess makes rows of shape {have} of raw rows "
        f"of shape {fitted.row_shape}",
        where=where,
        hint="the model's Input must have the shape that rows have after data.preprocess: "
        f"{have}{_why_so_many(fitted)}",
    )


def _why_so_many(fitted: FittedInput) -> str:
    if not any(isinstance(step, OneHot) for step in fitted.steps):
        return ""
    return (
        "; unless one_hot has num_classes, there are as many as each member's own training rows show, and a fold may "
        "lack some"
    )


def _agree(have: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(have) == len(wanted) and all(
        one == other or None in (one, other) for one, other in zip(have, wanted, strict=True)
    )


def _run(model: keras.Model, prepared: Any) -> Any:
    """The model's outputs for what comes out of preprocessing, layer by layer where it has a graph."""
    if _is_subclassed(model):
        return model(prepared)
    if _is_sequential(model):
        for layer in model.layers:
            prepared = layer(prepared)
        return prepared
    return model._run_through_graph(prepared, operation_fn=lambda operation: operation)
