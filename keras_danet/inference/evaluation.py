"""How good a model is: `evaluate` counts, `Report` shows the result."""

import collections
import concurrent.futures
import os
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_danet.data.datasets import Dataset
from keras_danet.data.decoding import read_pair
from keras_danet.data.files import Pair
from keras_danet.distribution.engines import Placement
from keras_danet.inference import image_records
from keras_danet.inference.digests import digest_of
from keras_danet.inference.report import Report as Report
from keras_danet.inference.scores import Counts
from keras_danet.inference.scores import count_image
from keras_danet.runs import versions

# Images that are read ahead, and counted behind, while the network computes.
AHEAD = 2


def evaluate(
    predictor: Callable[[np.ndarray], np.ndarray],
    pairs: Sequence[Pair],
    dataset: Dataset,
    split: str,
    progress: Callable[[int, int], None] | None = None,
    placement: Placement | None = None,
    *,
    quick: bool = False,
    records: str | os.PathLike[str] | None = None,
) -> Report:
    """Predicts every image and counts every labelled pixel.

    Args:
        predictor: a `Predictor`, or any function from an image, uint8
            `(height, width, 3)`, to a `(height, width)` label map. Its
            calibration is measured if it has the method
            `label_and_confidence`.
        pairs: list of `data.files.Pair`.
        dataset: `data.datasets.Dataset` that they belong to.
        split: string, for the report.
        progress: function of (number done, total number), called after each
            image. Defaults to `None`.
        placement: a `distribution.Placement`, whose processes share the
            images and return the same report. Defaults to `None`.
        quick: boolean, whether the confusion matrix is all that is wanted:
            neither boundaries nor calibration. Defaults to `False`.
        records: path of a file, `.jsonl`, that gets a line for each image.
            A measurement that was stopped resumes when it is started
            again with the same model, images and protocol. Defaults
            to `None`.

    Returns:
        A `Report`.

    Raises:
        BlockingIOError: if another evaluation writes to `records`.
        ValueError: if a file is unreadable, holds unknown label values, or
            image and label differ in size; images before it are in
            `records`.
    """
    placement = placement or Placement()
    which, processes = placement.measuring_shard
    if records is not None and processes > 1:
        raise ValueError(
            "`records` are written by one process. Received: a placement "
            f"whose {processes} processes share the images. Leave `records` "
            "out."
        )
    tells = not quick and hasattr(predictor, "label_and_confidence")
    empty = Counts.zeros(dataset.num_classes, not quick, tells)
    facts = _facts(predictor, pairs, dataset, split)
    if not quick and processes == 1:
        facts["weights"] = digest_of(predictor)
    work = _Work(predictor, pairs, dataset, tells, not quick)
    if records is None:
        mine = range(which, len(pairs), processes)
        total, sizes = _count(work, mine, empty, progress)
    else:
        total, sizes = _count_recorded(work, records, facts, empty, progress)
    vector = np.concatenate([total.as_vector(), sizes.ravel()])
    vector = placement.sum_over_processes(vector)
    length = len(vector) - sizes.size
    total = total.with_vector(vector[:length])
    return Report(
        num_images=len(pairs),
        confusion_matrix=total.confusion,
        ignored_pixels=total.ignored,
        image_sizes=_counted_sizes(vector[length:].reshape(-1, 2)),
        boundary_counts=total.boundary,
        calibration_counts=total.calibration,
        **facts,
    )


def _facts(predictor, pairs, dataset, split) -> dict[str, Any]:
    """What is measured, and how, as a report says it."""
    protocol = getattr(predictor, "protocol", "unknown")
    names = image_records.image_names(pairs)
    return {
        "dataset": dataset.name,
        "split": split,
        "class_names": dataset.class_names,
        "protocol": str(protocol),
        "settings": protocol.as_dict()
        if hasattr(protocol, "as_dict")
        else None,
        "images": image_records.digest_of_names(names),
        "weights": None,
    }


def _count(work, indices, empty, progress):
    """Counts some images: their sum, and the size of every image, or 0."""
    total = empty
    sizes = np.zeros((len(work.pairs), 2), "int64")
    results = work.results(indices)
    for done, (index, size, counts) in enumerate(results, 1):
        total += counts
        sizes[index] = size
        if progress:
            progress(done, len(indices))
    return total, sizes


def _count_recorded(work, path, facts, empty, progress):
    """Counts all images, those that are not in a file of records yet."""
    header = {
        "format": image_records.FORMAT,
        **facts,
        "label_values": image_records.digest_of_labels(work.dataset),
        "boundary": empty.boundary is not None,
        "calibration": empty.calibration is not None,
        "versions": versions(),
    }
    count = len(work.pairs)
    sizes = np.zeros((count, 2), "int64")
    with image_records.open_records(path, header, work.pairs, empty) as file:
        if file.note:
            warnings.warn(file.note, stacklevel=4)
        missing = [index for index in range(count) if index not in file.done]
        for result in work.results(missing):
            file.write(*result)
            if progress:
                progress(len(file.done), count)
        for index, size in file.done.items():
            sizes[index] = size
        file.finish()
        return file.total, sizes


class _Work:
    """Images on their way through reading, prediction and counting.

    Two threads read and count while the network computes. A few images are
    in memory at a time, and results come in order.
    """

    def __init__(self, predictor, pairs, dataset, tells, boundary):
        self.predictor = predictor
        self.pairs = pairs
        self.dataset = dataset
        self.tells = tells
        self.boundary = boundary

    def results(self, indices):
        """Yields (index, size, counts); a bad file's error comes in order."""
        pool = concurrent.futures.ThreadPoolExecutor(AHEAD + 1)
        try:
            yield from self._results(iter(indices), pool)
        finally:
            pool.shutdown(cancel_futures=True)

    def _results(self, indices, pool):
        reading: collections.deque = collections.deque()
        counting: collections.deque = collections.deque()
        failure = None

        def read_ahead():
            for index in indices:
                pair = self.pairs[index]
                future = pool.submit(read_pair, pair, self.dataset)
                reading.append((index, future))
                if len(reading) == AHEAD:
                    break

        read_ahead()
        while reading and failure is None:
            index, future = reading.popleft()
            try:
                image, label = future.result()
                read_ahead()
                prediction, confidence = self._predict(image, index)
            except (ValueError, OSError) as error:
                failure = error
                break
            arguments = label, prediction, self.dataset.num_classes
            future = pool.submit(
                count_image, *arguments, confidence, self.boundary
            )
            path = self.pairs[index].image
            counting.append((path, index, label.shape, future))
            while len(counting) >= AHEAD:
                yield _counted(*counting.popleft())
        # What was measured before a bad file stays.
        while counting:
            yield _counted(*counting.popleft())
        if failure is not None:
            raise failure

    def _predict(self, image, index):
        try:
            if self.tells:
                return self.predictor.label_and_confidence(image)
            return self.predictor(image), None
        except ValueError as error:
            path = self.pairs[index].image
            raise ValueError(f"{path} cannot be segmented: {error}") from error


def _counted(path, index, size, future):
    try:
        return index, size, future.result()
    except ValueError as error:
        raise ValueError(f"{path} cannot be counted: {error}") from error


def _counted_sizes(sizes):
    """(height, width, number of images) of every size, sorted."""
    counter = collections.Counter(map(tuple, sizes.tolist()))
    return tuple((*size, count) for size, count in sorted(counter.items()))
