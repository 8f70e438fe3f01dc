"""A functional model that keeps no tensor longer than it is read."""

import collections

import keras


@keras.saving.register_keras_serializable(package="keras_danet")
class FunctionalModel(keras.Model):
    """`keras.Model(inputs, outputs)` with less memory where it runs eagerly.

    Keras 3.15 holds what every layer computed until the last one is through.
    Here a tensor goes when the last layer that reads it is through, as it
    does in graphs and compiled functions. It matters on torch.
    """

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
