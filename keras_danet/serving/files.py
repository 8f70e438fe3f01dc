"""The files that TensorFlow Serving is run with, for one export."""

import os
import pathlib
import re
import shlex
import string

from keras_danet import arguments
from keras_danet.export.contract import NAME
from keras_danet.files import make_folder
from keras_danet.files import save_text
from keras_danet.serving.served_model import check_served
from keras_danet.serving.served_model import newest_version

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

BATCHING = """\
# Only with BATCHING=1 (run.sh). TensorFlow Serving then computes requests of
# different clients together: their images must have one size, and a bad file
# fails all requests that it is computed with. For an export of one size that is
# asked for pixels (serving_default), on an accelerator.
max_batch_size { value: 8 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 64 }
num_batch_threads { value: $threads }
"""

RUN = """\
#!/bin/sh
# Serves $name with gRPC at port 8500 and REST at port 8501.
#   run.sh [FOLDER]   FOLDER holds the versions of the model
set -e
here=$$(cd "$$(dirname "$$0")" && pwd)
folder=$${1:-}
[ -n "$$folder" ] || folder=$folder
folder=$$(cd "$$folder" && pwd)
set -- --port=8500 --rest_api_port=8501 --rest_api_timeout_in_ms=60000 \\
    --model_config_file=/config/models.config
if [ "$${BATCHING:-0}" = 1 ]; then
    set -- "$$@" --enable_batching \\
        --batching_parameters_file=/config/batching.config
fi
# Not the image's own script, which would not pass SIGTERM on.
exec docker run --rm --init -p 8500:8500 -p 8501:8501 \\
    --mount "type=bind,source=$$folder,target=/models/$name,readonly" \\
    --mount "type=bind,source=$$here,target=/config,readonly" \\
    --entrypoint tensorflow_model_server \\
    $image "$$@"
"""

KUBERNETES = """\
# kubectl apply -f kubernetes.yaml
# The versions of the model lie in a volume: fill the claim $label-models so
# that it holds $name/1/saved_model.pb.
apiVersion: v1
kind: ConfigMap
metadata:
  name: $label-config
data:
  models.config: |
$models_config
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: "$label"
spec:
  replicas: 1
  selector:
    matchLabels: {app: "$label"}
  template:
    metadata:
      labels: {app: "$label"}
    spec:
      terminationGracePeriodSeconds: 60
      # So that SIGTERM ends the server, which ignores it as process 1.
      shareProcessNamespace: true
      containers:
        - name: serving
          image: $image
          command: [tensorflow_model_server]
          args:
            - --port=8500
            - --rest_api_port=8501
            - --rest_api_timeout_in_ms=60000
            - --model_config_file=/config/models.config
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
            timeoutSeconds: 10
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
          persistentVolumeClaim: {claimName: $label-models}
        - name: config
          configMap: {name: $label-config}
---
apiVersion: v1
kind: Service
metadata:
  name: "$label"
spec:
  selector: {app: "$label"}
  ports:
    - {name: grpc, port: 8500, targetPort: grpc}
    - {name: rest, port: 8501, targetPort: rest}
"""

CLIENT = '''\
"""Asks the server of $name for label maps: client.py IMAGE [ADDRESS]

ADDRESS is http://localhost:8501 (REST) or grpc://localhost:8500. It needs
keras-danet with the extra serving; rest.py needs nothing.
"""

import sys

from keras_danet.serving import Client

address = sys.argv[2] if len(sys.argv) > 2 else "http://localhost:8501"
with Client(address, model="$name") as client:
    labels = client(sys.argv[1])
    print(labels.shape, "classes", sorted(set(labels.flat)))
'''

REST = '''\
"""Asks the server of $name with Python alone: rest.py IMAGE LABELS.png"""

import base64
import json
import sys
import urllib.request

image, labels = sys.argv[1:3]
address = sys.argv[3] if len(sys.argv) > 3 else "http://localhost:8501"
with open(image, "rb") as file:
    contents = base64.b64encode(file.read()).decode("ascii")
request = urllib.request.Request(
    f"{address}/v1/models/$name:predict",
    json.dumps(
        {"signature_name": "encoded", "instances": [{"b64": contents}]}
    ).encode(),
    {"Content-Type": "application/json"},
)
with urllib.request.urlopen(request, timeout=60) as answer:
    [found] = json.load(answer)["predictions"]
with open(labels, "wb") as file:
    file.write(base64.b64decode(found["b64"]))
'''

CURL = """\
#!/bin/sh
# Asks the server of $name with curl: curl.sh IMAGE > labels.png
set -e
place=$$(mktemp -d)
trap 'rm -r "$$place"' EXIT
base64 < "$$1" > "$$place/image"
{
    printf '{"signature_name": "encoded", "instances": [{"b64": "'
    tr -d '\\n' < "$$place/image"
    printf '"}]}'
} > "$$place/request"
code=$$(curl -sS -o "$$place/answer" -w '%{http_code}' \\
    --data-binary "@$$place/request" \\
    "$${2:-http://localhost:8501}/v1/models/$name:predict")
if [ "$$code" != 200 ]; then
    cat "$$place/answer" >&2
    exit 1
fi
tr -d '\\n' < "$$place/answer" |
    sed -n 's/.*"b64": *"\\([^"]*\\)".*/\\1/p' | base64 -d
"""

FILES = {
    "models.config": MODELS_CONFIG,
    "batching.config": BATCHING,
    "run.sh": RUN,
    "kubernetes.yaml": KUBERNETES,
    "client.py": CLIENT,
    "rest.py": REST,
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
        ValueError: if it is of another format, its name is none for a
            server, or `threads` is below 1.
    """
    export = pathlib.Path(os.path.abspath(export))
    output = pathlib.Path(output)
    if export.name.isdecimal():
        export = export.parent
    check_served(newest_version(export))
    # It is written into scripts.
    if set(str(export)) & set(',"\n'):
        raise ValueError(
            f"The folder {export} cannot be given to Docker: its path has a "
            "comma, a quote or a line break. Move it."
        )
    if not NAME.fullmatch(export.name):
        raise ValueError(
            f"The folder {export} is the model's name, which must consist of "
            "letters, digits, '_', '-' and '.'. Rename it."
        )
    threads = arguments.integer(
        "threads", threads, "must be 1 or more", least=1
    )
    values = {
        "name": export.name,
        "label": _label(export.name),
        "folder": shlex.quote(str(export)),
        "image": IMAGE,
        "threads": str(threads),
    }
    config = string.Template(MODELS_CONFIG).substitute(values)
    lines = config.rstrip().splitlines()
    values["models_config"] = "\n".join(f"    {line}" for line in lines)
    texts = {
        name: string.Template(text).substitute(values)
        for name, text in FILES.items()
    }
    make_folder(output)
    for name, text in texts.items():
        path = output / name
        if path.exists() and path.read_bytes() != text.encode():
            raise FileExistsError(
                f"{path} exists and is not what would be written. Move it "
                "away, or choose another --output."
            )
    for name, text in texts.items():
        save_text(text, output / name)
        if name.endswith(".sh"):
            (output / name).chmod(0o755)
    return [output / name for name in texts]


def _label(name):
    """A name as Kubernetes takes it: 63 of a-z, 0-9 and '-', a letter first.

    Room is left for what is put behind it.
    """
    label = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-")
    return label if label[:1].isalpha() else f"model-{label}".strip("-")
