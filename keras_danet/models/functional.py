"""A functional model that keeps no tensor longer than it is read."""

import collections
import inspect
import os
import warnings

import keras
import numpy as np

from keras_danet import arguments


def refuse_jit_on_torch(jit_compile):
    if jit_compile is True and keras.backend.backend() == "torch":
        raise ValueError(
            "torch.compile fails on this network's shapes. Received: "
            "jit_compile=True. Take False, or 'auto'."
        )


def compilable(config):
    """A saved model's compile config, of any backend, for this one."""
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
    """`keras.Model(inputs, outputs)` with less memory where it runs eagerly.

    Keras 3.15 holds what every layer computed until the last one is through.
    Here a tensor goes when the last layer that reads it is through, as it
    does in graphs and compiled functions. It matters on torch.
    """

    def export(self, filepath, format="tf_saved_model", verbose=None, **kwargs):
        """`keras.Model.export`; the values of an ONNX file have names.

        The input is called `images`, the output `logits`; several outputs are
        called by their keys.
        """
        if format == "onnx" and not self._called:
            # Keras exports none that has never been called, as one that is
            # new or loaded has not.
            self(np.zeros([size or 64 for size in self.input_shape], "uint8"))
        super().export(filepath, format=format, verbose=verbose, **kwargs)
        if format == "onnx":
            _name_outputs(filepath, self.output)

    def compile(self, *args, **kwargs):
        given = inspect.signature(super().compile).bind(*args, **kwargs)
        jit_compile = arguments.plain(given.arguments.get("jit_compile"))
        refuse_jit_on_torch(jit_compile)
        super().compile(*args, **kwargs)

    def compile_from_config(self, config):
        super().compile_from_config(compilable(config))

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
    """Gives the outputs of an ONNX file names that say what they are."""
    import onnx

    file = onnx.load(path, load_external_data=False)
    graph = file.graph
    names = ["logits"]
    if len(graph.output) > 1:
        names = [
            "_".join(map(str, path))
            for path, _ in keras.tree.flatten_with_path(outputs)
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
