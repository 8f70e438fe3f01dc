"""Batches made ahead of training, in threads or processes, in their order."""

import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import ThreadPoolExecutor

import keras


class ReadAhead(keras.utils.PyDataset):
    """Batches made in order, ahead of whoever reads them.

    Not by the workers of Keras, which forget what `fit` and `evaluate` read
    of them to learn shapes: training would begin with the second batch, and
    an evaluation would read some images twice and others never.

    Args:
        workers: Integer, how many threads or processes; up to 1 thread makes
            each batch when it is asked for. Defaults to `1`.
        use_multiprocessing: Boolean, whether they are processes. Defaults to
            `False`.
        max_queue_size: Integer, how many batches are made ahead. Defaults to
            `10`.
    """

    # A `BadFiles`, where batches may skip.
    bad_files = None

    def __init__(self, workers=1, use_multiprocessing=False, max_queue_size=10):
        super().__init__()
        self._num_workers = workers
        self._in_processes = use_multiprocessing
        self._num_ahead = max(max_queue_size, 1)
        self.__setstate__({})

    # What a process is sent: neither threads nor what they made.
    def __getstate__(self):
        return {
            key: value
            for key, value in self.__dict__.items()
            if key not in ("_pool", "_pool_lock", "_made")
        }

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._pool, self._pool_lock, self._made = None, threading.Lock(), {}

    def __getitem__(self, index):
        if self._num_workers <= (0 if self._in_processes else 1):
            return self.make_batch(index)
        with self._pool_lock:
            # Batches left of another place in the stream are given up.
            made, self._made = self._made, {}
            for number in self._ahead(index):
                future = made.pop(number, None)
                self._made[number] = future or self._submit(number)
            for future in made.values():
                future.cancel()
            future = self._made.pop(index)
        if not self._in_processes:
            return future.result()
        batch, skipped = future.result()
        for bad in skipped:
            self.bad_files.skip(bad)
        return batch

    def make_batch(self, index):
        """The batch itself; a pure function of `index`."""
        raise NotImplementedError

    def _ahead(self, index):
        end = index + self._num_ahead
        if self.num_batches is not None:
            end = max(min(end, self.num_batches), index + 1)
        return range(index, end)

    def _submit(self, index):
        if self._in_processes:
            self._pool = self._pool or ProcessPoolExecutor(
                self._num_workers, initializer=_receive, initargs=(self,)
            )
            return self._pool.submit(_batch_in_process, index)
        self._pool = self._pool or ThreadPoolExecutor(self._num_workers)
        return self._pool.submit(self.make_batch, index)


# In a process of a pool, the batches that it makes.
_received = []


def _receive(batches):
    _received[:] = [batches]
    # Whoever asked for the batches is told what was skipped, and logs it.
    if batches.bad_files:
        batches.bad_files.is_quiet = True


def _batch_in_process(index):
    batches = _received[0]
    batch = batches.make_batch(index)
    return batch, tuple(batches.bad_files.skipped) if batches.bad_files else ()
