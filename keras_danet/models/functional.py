"""The base class of all our networks, a functional model.

It keeps no tensor longer than needed, and refuses what Keras would silently
do wrong to a network of convolutions.
"""

import collections
import inspect
import os
import warnings

import keras
import numpy as np

from keras_danet import arguments

# Keras 3.15 writes a whole model to such a file and cannot read it.
H5_ENDINGS = (".h5", ".hdf5")


def refuse_jit_on_torch(jit_compile):
    if jit_compile is True and keras.backend.backend() == "torch":
        raise ValueError(
            "torch.compile fails on this network's shapes. Received: "
            "jit_compile=True. Use False or 'auto'."
        )


def compilable(config):
    """A saved model's compile config, from any backend, for this one."""
    if keras.backend.backend() != "torch" or not config.get("jit_compile"):
        return config
    if config["jit_compile"] is True:
        warnings.warn(
            "The model was saved with jit_compile=True, which fails on torch: "
            "it is loaded with False.",
            stacklevel=3,
        )
        config = {**config, "jit_compile": False}
    return config


@keras.saving.register_keras_serializable(package="keras_danet")
class FunctionalModel(keras.Model):
    """`keras.Model(inputs, outputs)` with less memory in eager execution.

    Keras 3.15 holds the output of every layer until the last one has run.
    Here a tensor is released once the last layer that reads it has run, as
    in graphs and compiled functions. It matters on torch.
    """

    def export(self, filepath, format="tf_saved_model", verbose=None, **kwargs):
        """`keras.Model.export`; the values of an ONNX file have names.

        The input is named `images`, the output `logits`; several outputs are
        named by their keys.

        Raises:
            ValueError: for `format="litert"` with sizes that are not fixed:
                such a file needs operators that phones lack.
        """
        if format == "litert":
            _check_fixed(self, kwargs.get("input_signature"))
        if format == "onnx" and not self._called:
            # Keras cannot export a model that has never been called, such as a
            # new or loaded one.
            self(np.zeros([size or 64 for size in self.input_shape], "uint8"))
        super().export(filepath, format=format, verbose=verbose, **kwargs)
        if format == "onnx":
            _name_outputs(filepath, self.output)

    def compile(self, *args, **kwargs):
        given = inspect.signature(super().compile).bind(*args, **kwargs)
        given = arguments.plain_values(given.arguments)
        refuse_jit_on_torch(given.get("jit_compile"))
        super().compile(**given)

    def compile_from_config(self, config):
        super().compile_from_config(compilable(config))

    def save(self, filepath, *args, **kwargs):
        """`keras.Model.save`, to a `.keras` file or, unzipped, a folder.

        Raises:
            ValueError: for a whole model as `.h5`, which could not be loaded.
        """
        if str(filepath).lower().endswith(H5_ENDINGS):
            raise _h5_refused(self, filepath)
        super().save(filepath, *args, **kwargs)

    def get_config(self):
        refuse_h5(self)
        return super().get_config()

    def quantize(self, *args, **kwargs):
        """Refused: Keras does not quantise convolutions.

        Raises:
            ValueError: always; says what to do instead.
        """
        raise ValueError(
            f"{self.name!r} is made of convolutions, and Keras only quantises "
            "dense layers and embeddings: nothing would change. For half "
            "the memory make it with dtype='mixed_bfloat16' (or "
            "'bfloat16'). For int8 use keras_danet.export_model(model, "
            "folder, 'tflite', 'int8', size, calibration=images)."
        )

    def _run_through_graph(
        self, inputs, operation_fn=lambda operation: operation, call_fn=None
    ):
        if call_fn is not None:  # Nothing is computed.
            return super()._run_through_graph(inputs, operation_fn, call_fn)
        nodes = [
            node
            for depth in sorted(self._nodes_by_depth, reverse=True)
            for node in self._nodes_by_depth[depth]
            if not node.is_input
        ]
        own = type(self).get_config is not FunctionalModel.get_config
        if own and isinstance(
            operation_fn(self._get_operation_for_node(nodes[0])),
            keras.Operation,
        ):
            raise _clone_refused(self)
        readers = collections.Counter(
            id(x) for node in nodes for x in node.input_tensors
        )
        readers.update(map(id, self.outputs))
        tensors = dict(
            zip(map(id, self.inputs), keras.tree.flatten(inputs), strict=True)
        )
        del inputs
        for node in nodes:
            args, kwargs = node.arguments.fill_in(tensors)
            operation = self._get_operation_for_node(node)
            outputs = operation_fn(operation)(*args, **kwargs)
            for x, tensor in zip(
                node.outputs, keras.tree.flatten(outputs), strict=True
            ):
                tensors[id(x)] = tensor
            del args, kwargs, outputs
            for x in node.input_tensors:
                readers[id(x)] -= 1
            for x in (*node.input_tensors, *node.outputs):
                if not readers[id(x)]:
                    tensors.pop(id(x), None)
        return keras.tree.map_structure(
            lambda x: tensors[id(x)], self._outputs_struct
        )


def _name_outputs(path, outputs):
    """Gives the outputs of an ONNX file meaningful names."""
    import onnx

    file = onnx.load(path, load_external_data=False)
    graph = file.graph
    names = ["logits"]
    if len(graph.output) > 1:
        names = [
            "_".join(map(str, keys))
            for keys, _ in keras.tree.flatten_with_path(outputs)
        ]
    new = {
        value.name: name
        for value, name in zip(graph.output, names, strict=True)
    }
    for value in graph.output:
        value.name = new[value.name]
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [new.get(name, name) for name in values]
    beside = f"{path}.partial"
    onnx.save(file, beside)
    os.replace(beside, path)


def refuse_h5(model):
    """Refuses to return a config for a whole model's `.h5` file.

    `keras.saving.save_model` calls no method that knows the file, but the
    configs it writes for `.h5` have no module.
    """
    probe = keras.Sequential([keras.layers.ReLU(name="probe")], name="probe")
    if "module" not in probe.get_config()["layers"][0]:
        raise _h5_refused(model, "model.h5")


def _h5_refused(model, path):
    return ValueError(
        f"A whole {type(model).__name__} saved as .h5 could not be loaded "
        "again. Save it by model.save('model.keras'), or its weights alone by "
        f"model.save_weights('model.weights.h5'). Received: {str(path)!r}"
    )


def _clone_refused(model):
    kind = type(model).__name__
    return ValueError(
        f"keras.models.clone_model would make a plain functional model of "
        f"this {kind}, without its losses and methods. For a new {kind} "
        f"use {kind}.from_config(model.get_config()); for one with the same "
        "weights, copy.deepcopy(model)."
    )


def _check_fixed(model, signature):
    """Refuses a LiteRT file with sizes that are not fixed."""
    given = model.input if signature is None else signature
    shapes = [
        tuple(getattr(spec, "shape", ())) for spec in keras.tree.flatten(given)
    ]
    if any(None in shape for shape in shapes):
        raise ValueError(
            "A LiteRT file of this network has one image size; for any size "
            "it would need operators (Flex) that phones lack. Expected "
            "a fixed size: input_signature=[keras.InputSpec(shape=(1, 512, "
            "1024, 3), dtype='float32')], or keras-danet export --format "
            f"tflite --size 512x1024. Received: shapes {shapes}"
        )
