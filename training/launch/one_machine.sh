#!/usr/bin/env bash
# Every GPU of this machine: MirroredStrategy on TensorFlow, DataParallel on
# JAX. Started again, it resumes the run in RUN. Arguments are handed on:
#
#   KERAS_BACKEND=jax training/launch/one_machine.sh --set batch_size=16
set -euo pipefail

export KERAS_BACKEND="${KERAS_BACKEND:-tensorflow}"
RECIPE="${RECIPE:-training/camvid_danet_resnet18.py}"
DATA="${DATA:-CamVid}"
RUN="${RUN:-saved_models/run}"

exec keras-danet train "$RECIPE" --data "$DATA" --output "$RUN" --resume \
    --distribute auto "$@"
