"""Several processes on this machine that train together."""

import json
import socket

import keras

from keras_danet.distribution import keras_distributions


def environments(workers):
    """What tells each of the processes on this machine of the others."""
    ports = []
    for _ in range(workers):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(f"127.0.0.1:{free.getsockname()[1]}")
    if keras.backend.backend() == "tensorflow":
        return [
            {
                "TF_CONFIG": json.dumps(
                    {
                        "cluster": {"worker": ports},
                        "task": {"type": "worker", "index": index},
                    }
                )
            }
            for index in range(workers)
        ]
    return [
        dict(
            zip(
                keras_distributions.PROCESS_VARIABLES,
                (ports[0], str(workers), str(index)),
                strict=True,
            )
        )
        for index in range(workers)
    ]
