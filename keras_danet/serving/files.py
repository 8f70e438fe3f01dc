"""The files that TensorFlow Serving is run with, for one export."""

import pathlib
import string

from keras_danet.export.runtimes import read_export
from keras_danet.files import make_folder
from keras_danet.files import save_text

# TensorFlow 2.21's, which writes the SavedModels.
IMAGE = "tensorflow/serving:2.21.0"

MODELS_CONFIG = """\
model_config_list {
  config {
    name: "$name"
    base_path: "/models/$name"
    model_platform: "tensorflow"
  }
}
"""

# Images of different sizes are not batched: a batch has one size. Bytes are.
BATCHING = """\
max_batch_size { value: 8 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 64 }
num_batch_threads { value: $threads }
"""

RUN = """\
#!/bin/sh
# Serves $name with gRPC at port 8500 and REST at port 8501.
set -e
here=$$(cd "$$(dirname "$$0")" && pwd)
exec docker run --rm -p 8500:8500 -p 8501:8501 \\
    -v "$${1:-$folder}:/models/$name:ro" \\
    -v "$$here:/config:ro" \\
    $image \\
    --model_config_file=/config/models.config \\
    --enable_batching \\
    --batching_parameters_file=/config/batching.config \\
    --rest_api_timeout_in_ms=60000
"""

KUBERNETES = """\
# kubectl apply -f kubernetes.yaml
# The versions of the model lie in a volume: fill the claim $name-models so
# that it holds $name/1/saved_model.pb.
apiVersion: v1
kind: ConfigMap
metadata:
  name: $name-config
data:
  models.config: |
$models_config
  batching.config: |
$batching
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: $name
spec:
  replicas: 1
  selector:
    matchLabels: {app: $name}
  template:
    metadata:
      labels: {app: $name}
    spec:
      terminationGracePeriodSeconds: 60
      containers:
        - name: serving
          image: $image
          args:
            - --model_config_file=/config/models.config
            - --enable_batching
            - --batching_parameters_file=/config/batching.config
          ports:
            - {name: grpc, containerPort: 8500}
            - {name: rest, containerPort: 8501}
          # Loading and warming up take a while: not ready until then.
          startupProbe:
            httpGet: {path: /v1/models/$name, port: rest}
            failureThreshold: 60
            periodSeconds: 5
          readinessProbe:
            httpGet: {path: /v1/models/$name, port: rest}
          livenessProbe:
            tcpSocket: {port: grpc}
          resources:
            requests: {cpu: "$threads", memory: 4Gi}
            limits: {memory: 8Gi}
          volumeMounts:
            - {name: models, mountPath: /models, readOnly: true}
            - {name: config, mountPath: /config, readOnly: true}
      volumes:
        - name: models
          persistentVolumeClaim: {claimName: $name-models}
        - name: config
          configMap: {name: $name-config}
---
apiVersion: v1
kind: Service
metadata:
  name: $name
spec:
  selector: {app: $name}
  ports:
    - {name: grpc, port: 8500, targetPort: grpc}
    - {name: rest, port: 8501, targetPort: rest}
"""

CLIENT = '''\
"""Asks the server of $name for label maps: client.py IMAGE [ADDRESS]

ADDRESS is http://localhost:8501 (REST, without any package but httpx) or
grpc://localhost:8500.
"""

import sys

from keras_danet.serving import Client

address = sys.argv[2] if len(sys.argv) > 2 else "http://localhost:8501"
with Client(address, model="$name") as client:
    labels = client(sys.argv[1])
    print(labels.shape, "classes", sorted(set(labels.flat)))
'''

CURL = """\
#!/bin/sh
# Asks the server of $name with curl: curl.sh IMAGE > labels.png
set -e
printf '{"signature_name": "encoded", "instances": [{"b64": "%s"}]}' \\
    "$$(base64 < "$$1" | tr -d '\\n')" |
    curl -sf --data-binary @- \\
        "$${2:-http://localhost:8501}/v1/models/$name:predict" |
    sed 's/.*"b64": *"\\([^"]*\\)".*/\\1/' | base64 -d
"""

FILES = {
    "models.config": MODELS_CONFIG,
    "batching.config": BATCHING,
    "run.sh": RUN,
    "kubernetes.yaml": KUBERNETES,
    "client.py": CLIENT,
    "curl.sh": CURL,
}


def write_files(export, output, threads=2):
    """Writes what TensorFlow Serving is run with.

    Args:
        export: path of the folder NAME that holds versions.
        output: path of the folder to write to.
        threads: integer, how many batches the server computes at a time.

    Returns:
        List of the paths.

    Raises:
        FileExistsError: if a file of another content is in the way.
        FileNotFoundError: if it is not an export for servers.
    """
    export, output = pathlib.Path(export).resolve(), pathlib.Path(output)
    if export.name.isdecimal():
        export = export.parent
    versions = [p for p in export.glob("*") if p.name.isdecimal()]
    if not versions:
        raise FileNotFoundError(
            f"{export} has no version of a model. Expected the folder NAME "
            "that `keras-danet export --format saved_model` made."
        )
    read_export(max(versions, key=lambda path: int(path.name)))
    values = {
        "name": export.name,
        "folder": str(export),
        "image": IMAGE,
        "threads": str(threads),
    }
    for key, text in (
        ("models_config", MODELS_CONFIG),
        ("batching", BATCHING),
    ):
        filled = string.Template(text).substitute(values)
        lines = filled.rstrip().splitlines()
        values[key] = "\n".join(f"    {line}" for line in lines)
    texts = {
        name: string.Template(text).substitute(values)
        for name, text in FILES.items()
    }
    make_folder(output)
    for name, text in texts.items():
        path = output / name
        if path.exists() and path.read_text("utf-8") != text:
            raise FileExistsError(
                f"{path} exists and is not what would be written. Move it "
                "away, or choose another --output."
            )
    for name, text in texts.items():
        save_text(text, output / name)
        if name.endswith(".sh"):
            (output / name).chmod(0o755)
    return [output / name for name in texts]
