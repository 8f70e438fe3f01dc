"""Which operators an export is made of, read from its file."""

import itertools

from keras_danet.export.runtimes import openvino_core


def operators_of(format, path):
    """The names of the operators in an export's file, each once.

    Args:
        format: string, key of `contract.FORMATS`.
        path: `pathlib.Path` of the file.

    Returns:
        Sorted list of strings. A custom operator would be among them.
    """
    return sorted(set(_READERS[format](path)))


def _of_saved_model(path):
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    [graph] = [meta.graph_def for meta in saved.meta_graphs]
    bodies = (function.node_def for function in graph.library.function)
    return [node.op for node in itertools.chain(graph.node, *bodies)]


def _of_tflite(path):
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(model_path=str(path))._get_ops_details()
    # What the runtime puts in their place is not in the file.
    return {operator["op_name"] for operator in details} - {"DELEGATE"}


def _of_onnx(path):
    import onnx

    return _of_graph(onnx.load(path).graph)


def _of_graph(graph):
    for node in graph.node:
        # Those of other sets than ONNX's own are named with it.
        yield f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for attribute in node.attribute:
            # The body of a loop or a branch.
            if attribute.HasField("g"):
                yield from _of_graph(attribute.g)


def _of_openvino(path):
    return _of_model(openvino_core().read_model(str(path)))


def _of_model(model):
    for operator in model.get_ops():
        yield operator.get_type_name()
        if operator.get_type_name() in ("Loop", "TensorIterator"):
            yield from _of_model(operator.get_function())


def _of_pt2(path):
    import torch

    graph = torch.export.load(str(path)).graph
    return [
        str(node.target) for node in graph.nodes if node.op == "call_function"
    ]


_READERS = {
    "saved_model": _of_saved_model,
    "tflite": _of_tflite,
    "onnx": _of_onnx,
    "openvino": _of_openvino,
    "pt2": _of_pt2,
}
