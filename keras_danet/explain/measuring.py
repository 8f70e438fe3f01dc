"""What labelled images of a data set say of a network's attentions."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from keras_danet.data.datasets import Dataset
from keras_danet.data.decoding import read_pair
from keras_danet.data.files import Pair
from keras_danet.explain.channels import ChannelClasses
from keras_danet.explain.channels import channel_classes
from keras_danet.explain.switching import Contribution
from keras_danet.explain.switching import contribution
from keras_danet.inference import Predictor


def spread_evenly(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """So many of a sequence, from its first to its last.

    >>> from keras_danet.explain.measuring import spread_evenly
    >>> spread_evenly("abcdefg", 3), spread_evenly("ab", 3)
    (['a', 'd', 'g'], ['a', 'b'])
    """
    if count >= len(pairs):
        return [*pairs]
    if count == 1:
        return [pairs[0]]
    last = len(pairs) - 1
    return [pairs[index * last // (count - 1)] for index in range(count)]


def measure(
    predictor: Predictor,
    pairs: Sequence[Pair],
    dataset: Dataset,
    count: Callable[[int, int], Any] = lambda done, steps: None,
) -> tuple[list[Contribution], ChannelClasses | None]:
    """What each attention adds, and what channels answer to.

    Args:
        predictor: `Predictor` of a `DANet`.
        pairs: sequence of `Pair`, files of images and labels.
        dataset: `Dataset` that they are of.
        count: function that gets how many images are done, of how many.
            Defaults to one that does nothing.

    Returns:
        What `contribution` and `channel_classes` return; an empty list and
        `None` for attentions that the network does not have.
    """
    model, size = predictor.model, predictor.size
    kinds = model.attention
    steps = len(pairs) * (bool(kinds) + ("channel" in kinds))

    def read(before):
        for done, pair in enumerate(pairs, 1):
            yield read_pair(pair, dataset)
            count(before + done, steps)

    contributions, classes = [], None
    if kinds:
        contributions = contribution(model, read(0), size)
    if "channel" in kinds:
        classes = channel_classes(model, read(len(pairs)), size)
    return contributions, classes
