"""Which examples training reads, in which order, and what is done to each."""

import numpy as np

from keras_danet.data.bad_files import BadFiles
from keras_danet.data.plan import Plan
from keras_danet.data.plan import check_integer
from keras_danet.data.plan import draw_plan
from keras_danet.data.plan import places


class Stream:
    """The endless stream of augmented batches, before anything is read.

    Epoch e is exactly `steps_per_epoch(len(pairs), batch_size)` batches long,
    and its batch k is the same wherever the stream starts: pass that number
    to `fit`, and start a resumed run where it stopped. `training_dataset` and
    `TrainingBatches` read it, with and without TensorFlow.

    Args:
        pairs: List of `Pair`, as from `find_pairs`.
        dataset: A `Dataset`.
        augmentation: An `Augmentation`.
        batch_size: Integer, over all workers of `shard`, at most the number
            of pairs.
        seed: Integer, of all randomness. Defaults to `0`.
        start_epoch: Integer, where the stream starts. Defaults to `0`.
        start_step: Integer, the first batch's place in that epoch; a number
            beyond its end continues into the next. Earlier batches are not
            decoded. Defaults to `0`.
        shard: Pair of integers, (which, of how many) workers share each
            batch. Defaults to `(0, 1)`.
        bad_files: A `BadFiles` of the same pairs, which decides what to do
            about a bad file. Defaults to `None`, which ends the stream.

    Attributes:
        start: (epoch, step) of the first batch.
        steps, share: Integers, batches in an epoch and this worker's examples
            in each.

    Raises:
        ValueError: if an argument is not valid.
    """

    def __init__(
        self,
        pairs,
        dataset,
        augmentation,
        *,
        batch_size,
        seed=0,
        start_epoch=0,
        start_step=0,
        shard=(0, 1),
        bad_files=None,
    ):
        self.pairs = pairs
        self.dataset = dataset
        self.augmentation = augmentation
        self.seed = seed
        self.bad_files = bad_files or BadFiles(pairs, dataset)
        used = places(len(pairs), batch_size, shard)
        self.steps, self.share = used.shape
        self._places = used.ravel()
        start_step = check_integer("start_step", start_step, least=0)
        skipped, step = divmod(start_step, self.steps)
        self.start = start_epoch + skipped, step

    def draw(self, epoch):
        """The `Plan` of this worker's examples of an epoch.

        In `order` each has a row: itself, and those that may replace it.
        """
        plan = draw_plan(self.seed, epoch, len(self.pairs), self.augmentation)
        tries = np.arange(self.bad_files.num_tries)
        candidates = (self._places[:, np.newaxis] + tries) % len(self.pairs)
        decisions = (field[self._places] for field in plan[1:])
        return Plan(plan.order[candidates], *decisions)
