"""One reader of training data in a process of its own; `data.py` starts it.

    python data_contestants.py '{"reader": "tf.data", "dataset": ..., ...}'

It reads as many examples as the task's marks say, batch by batch, doing
nothing with them, and answers with a line of JSON: at each mark the seconds
since the start and the process's memory. What lies before the first mark is
the warm-up. So that nothing is read in advance for free, times are those of a
reader whose batches are awaited, not kept.
"""

import importlib
import json
import os
import sys
import time

from contestant import resident

from keras_danet.data.datasets import get_dataset
from keras_danet.data.files import find_pairs
from keras_danet.data.plan import Augmentation


def tf_data(pairs, dataset, augmentation, task):
    """Our pipeline in TensorFlow; it finds its number of threads itself."""
    pipeline = importlib.import_module("keras_danet.data.tensorflow_batches")
    return iter(
        pipeline.training_dataset(
            pairs, dataset, augmentation, batch_size=task["batch_size"]
        )
    )


def py_dataset(pairs, dataset, augmentation, task):
    """Our loader without TensorFlow, by the queue that `fit` gives it."""
    loader = importlib.import_module("keras_danet.data.numpy_batches")
    adapters = importlib.import_module(
        "keras.src.trainers.data_adapters.py_dataset_adapter"
    )
    batches = loader.TrainingBatches(
        pairs,
        dataset,
        augmentation,
        batch_size=task["batch_size"],
        workers=task["workers"],
    )
    return iter(adapters.PyDatasetAdapter(batches).get_numpy_iterator())


def albumentations(pairs, dataset, augmentation, task):
    """A torch DataLoader over albumentations' transforms and OpenCV."""
    # Or it asks the network for its newest version.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    torch = importlib.import_module("torch")
    peer = importlib.import_module("data_peer")
    loader = torch.utils.data.DataLoader(
        peer.Examples(pairs, dataset, augmentation),
        batch_size=task["batch_size"],
        shuffle=True,
        drop_last=True,
        num_workers=task["workers"],
        worker_init_fn=peer.use_one_thread,
        persistent_workers=True,
    )

    def endless():
        while True:
            for images, labels in loader:
                yield images.float(), labels

    return endless()


READERS = {
    "tf.data": tf_data,
    "PyDataset": py_dataset,
    "albumentations": albumentations,
}


def read(task):
    dataset = get_dataset(task["dataset"])
    pairs = find_pairs(dataset, task["root"], "train")
    # An epoch long enough that its end does not count.
    pairs = pairs * (1 + 1000 // len(pairs))
    batches = READERS[task["reader"]](
        pairs, dataset, Augmentation(**task["augmentation"]), task
    )
    answers, done, start = [], 0, time.perf_counter()
    for mark in task["marks"]:
        while done < mark:
            _, labels = next(batches)
            done += len(labels)
        answers.append(
            {
                "examples": done,
                "seconds": time.perf_counter() - start,
                "memory": resident("VmRSS"),
                "peak": resident("VmHWM"),
            }
        )
    return answers


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps(read(json.loads(sys.argv[1]))), file=answers)
    # Queues and their threads have no end of their own.
    os._exit(0)


if __name__ == "__main__":
    main()
