"""What training does about files that it cannot use."""

import collections
import logging
import threading

from keras_danet.arguments import choice
from keras_danet.data.decoding import read_pair

POLICIES = ("error", "skip")
# So many bad examples in a row end even a training that may skip: something
# else is wrong then.
NUM_TRIES = 10

_LOGGER = logging.getLogger("keras_danet")


class BadFiles:
    """Ends a training at the first bad file, or skips, names and counts them.

    A skipped example is replaced by the next one in the epoch's order that
    can be read: batches stay whole, and the same files give the same batches.

    Args:
        pairs: List of `Pair`.
        dataset: The `Dataset` that they belong to.
        policy: `"error"` or `"skip"`. Defaults to `"error"`.

    Attributes:
        skipped: Set of integers, the examples that were skipped so far. Not
            how often: that also depends on how far loaders read ahead.
    """

    def __init__(self, pairs, dataset, policy="error"):
        choice("on_bad_file", policy, POLICIES)
        self.pairs = pairs
        self.dataset = dataset
        self.num_tries = NUM_TRIES if policy == "skip" else 1
        self.skipped = set()
        self._begun = collections.deque(maxlen=0)
        self._lock = threading.Lock()

    @property
    def count(self):
        return len(self.skipped)

    def remember(self, num_examples):
        """Keeps at least this many of the examples that were begun last."""
        if num_examples > self._begun.maxlen:
            self._begun = collections.deque(self._begun, num_examples)

    def begin(self, index):
        """Returns a pair that is about to be read, and remembers it."""
        self._begun.append(index)
        return self.pairs[index]

    def recent(self):
        """The examples that were begun last, newest first.

        Without those that were skipped: others replaced them.
        """
        begun = dict.fromkeys(reversed(self._begun.copy()))
        return [index for index in begun if index not in self.skipped]

    def skip(self, index):
        """Counts and logs an example that is skipped, the first time."""
        with self._lock:
            known = index in self.skipped
            self.skipped.add(index)
        if not known:
            _LOGGER.warning("Skipped: %s", self.explain(index))

    def explain(self, index):
        """What is wrong with a pair, as one sentence or two."""
        try:
            read_pair(self.pairs[index], self.dataset)
        except (ValueError, OSError) as error:
            return str(error)
        pair = self.pairs[index]
        return (
            f"{pair.image} and {pair.label} could not be read for training, "
            "but Pillow reads them now: the disk or network they are on may "
            "fail at times, or TensorFlow's decoder is stricter. Train "
            "again, save both again, or use on_bad_file='skip'."
        )

    def give_up(self, index):
        """Raises the error for a pair that nothing could replace."""
        message = self.explain(index)
        if self.num_tries > 1:
            message = (
                f"{self.num_tries} examples in a row could not be used; that "
                f"is too many to skip. One of them: {message}"
            )
        raise ValueError(message)
