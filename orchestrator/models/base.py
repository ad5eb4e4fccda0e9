"""The saved model that a member starts from: opened anew for each, cut to what is reused.

Unlike a member's published file, a base is opened as a whole: nobody else knows what it is. So its archive is checked
first, and its configuration may name nothing but Keras' own modelling classes and those that the job's own modules have
registered.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InvalidJob, InvalidModel
from orchestrator.models.load import SLACK_BYTES, check_archive
from orchestrator.planning.stages import no_such_layer
from orchestrator.spec import BaseSpec

if TYPE_CHECKING:
    import keras

_CONFIG_FILE = "config.json"
_MODELLING = re.compile(
    r"keras(\.src)?(\.(activations|constraints|dtype_policies|initializers|layers|models|ops|random|regularizers)"
    r"(\.\w+)*)?"
)
_CODE = ("__lambda__", "Lambda", "__typespec__")
_NUMBERED = re.compile(r"(.+?)(?:_(\d+))?")


_PLACED: dict[str, Path] = {}
"""Where this process has the bytes of each base, by source."""


def place_base(source: str, path: Path) -> None:
    """Tell this process where the verified bytes of a base are (`BaseSpec.source` names it)."""
    _PLACED[source] = path


def load_base(base: BaseSpec) -> keras.Model:
    """What is reused of a base, as a model that nobody else has; uncompiled, its weights as they were saved.

    Call it once the job's own modules are imported: they register their classes.

    Args:
        base: placed in this process.

    Raises:
        InvalidModel: the file is damaged, or holds code that is not known here.
        InvalidJob: it has no such layers, or none that can be told apart.
    """
    import keras

    where, path = base.source, _PLACED[base.source]
    try:
        check_archive(str(path), max_bytes=2 * path.stat().st_size + SLACK_BYTES)
        with zipfile.ZipFile(path) as archive:
            strange = sorted(set(_strange(json.loads(archive.read(_CONFIG_FILE)))))
        if not strange:
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except MemoryError:  # of this worker, not of the file
        raise
    except Exception as error:  # zipfile, h5py and Keras raise many kinds
        raise InvalidModel(
            f"the base cannot be opened: {type(error).__name__}: {str(error)[:400]}",
            where=where,
            hint="save it with this version of Keras by model.save('….keras')",
        ) from error
    if strange:
        raise InvalidModel(
            f"the base is made of what is not known here: {', '.join(strange)}",
            where=where,
            hint="register your own classes in the build function's module, with "
            "@keras.saving.register_keras_serializable(); a Lambda layer cannot be reused",
        )
    reused = _cut(model, base)
    _reserve_names(reused)
    return reused


def base_layers(base: keras.Model) -> list[keras.layers.Layer]:
    """The base's layers from its inputs on, those of models within it in their place; inputs are no layers."""
    import keras

    found: list[keras.layers.Layer] = []
    for layer in base.layers:
        if isinstance(layer, keras.Model):
            found += base_layers(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            found.append(layer)
    return found


def _strange(config: Any) -> Iterator[str]:
    """Classes and functions that a configuration names and that are neither Keras' own nor registered."""
    import keras

    if isinstance(config, list):
        for part in config:
            yield from _strange(part)
    if not isinstance(config, Mapping):
        return
    for key, part in config.items():
        if key != "compile_config":  # is not opened
            yield from _strange(part)
    name = config.get("class_name")
    if not isinstance(name, str):
        return
    module, registered = config.get("module"), config.get("registered_name")
    is_keras = module in (None, "builtins") or _MODELLING.fullmatch(str(module)) is not None
    is_registered = bool(registered) and keras.saving.get_registered_object(registered) is not None
    if name in _CODE or not (is_keras or is_registered):
        yield f"{module}.{name}" if module else name


def _cut(model: keras.Model, spec: BaseSpec) -> keras.Model:
    """The model up to a layer and with it; all of it where the job does not say."""
    import keras

    if spec.layers is None and spec.up_to is None:
        return model
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    number = _how_many([layer.name for layer in layers], spec)
    if isinstance(model, keras.Sequential):
        while len(model.layers) > number:
            model.pop()
        return model
    try:
        output = layers[number - 1].output
        return keras.Model(keras.utils.get_source_inputs(output), output, name=model.name)
    except (AttributeError, ValueError) as error:
        raise InvalidJob(
            f"the base cannot be cut at its layer {layers[number - 1].name!r}: {error}",
            where="model.base",
            hint="only Sequential and functional models can be cut; reuse all of it",
        ) from error


def _how_many(names: list[str], spec: BaseSpec) -> int:
    if spec.up_to is not None:
        if spec.up_to not in names:
            raise no_such_layer(spec.up_to, names, "model.base.up_to")
        return names.index(spec.up_to) + 1
    number = spec.layers or 0
    if number > len(names):
        raise InvalidJob(
            f"the base has {len(names)} layers, not {number}",
            where="model.base.layers",
            hint=f"they are {', '.join(names)}",
        )
    return number


def _reserve_names(base: keras.Model) -> None:
    """Have layers that are made from now on get other names: `dense_1` beside the base's `dense`."""
    import keras

    for layer in base._flatten_layers():
        match = _NUMBERED.fullmatch(layer.name)
        if match is not None:
            while keras.backend.get_uid(match[1]) <= int(match[2] or 0):
                pass
