"""A gRPC server in TensorFlow Serving's own protocol buffers, for one export.

    python tests/grpc_server.py EXPORT

It stands for TensorFlow Serving, no binary of which can be installed with pip:
its services as `tensorflow-serving-api` defines them, and the SavedModel run by
TensorFlow.
"""

import concurrent.futures
import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis import model_service_pb2_grpc
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

from keras_danet.serving.served_model import ServedModel


class Service(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Both of TensorFlow Serving's services.

    Args:
        served: `ServedModel`.
    """

    def __init__(self, served):
        self.served = served

    def Predict(self, request, context):
        if request.model_spec.name != self.served.name:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
        inputs = {
            name: tf.make_ndarray(value)
            for name, value in request.inputs.items()
        }
        try:
            outputs = self.served.run(request.model_spec.signature_name, inputs)
        except ValueError as error:
            code = grpc.StatusCode.INVALID_ARGUMENT
            context.abort(code, str(error))
        answer = predict_pb2.PredictResponse()
        for name, value in outputs.items():
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return answer

    def GetModelStatus(self, request, context):
        answer = get_model_status_pb2.GetModelStatusResponse()
        # AVAILABLE.
        answer.model_version_status.add(version=self.served.version, state=30)
        return answer


def start(served):
    """(server, its address)."""
    # TensorFlow Serving sets no limit either.
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(4),
        options=[("grpc.max_receive_message_length", -1)],
    )
    service = Service(served)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        service, server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"grpc://127.0.0.1:{port}"


if __name__ == "__main__":
    running, address = start(ServedModel(sys.argv[1]))
    print(address, flush=True)
    running.wait_for_termination()
