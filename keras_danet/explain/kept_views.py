"""The images that visitors of the page look at: the last ones are kept."""

import collections
import hashlib
import pathlib
import threading

from keras_danet.data.decoding import PHOTO_FORMATS
from keras_danet.data.decoding import read_image
from keras_danet.data.decoding import read_size
from keras_danet.explain.view import Explorer
from keras_danet.explain.view import View

# A view of the largest image takes about 200 MB, of 360x480 pixels 20 MB.
MOST_VIEWS = 8
# Twice what a telephone takes.
MAX_PIXELS = 2**25


class KeptViews:
    """Views by the content of their files; each is computed once.

    Args:
        explorer: `Explorer`.
        max_pixels: integer; a file of more pixels is refused before it is
            decoded. Defaults to `MAX_PIXELS`.
        most: integer, how many are kept. Defaults to `MOST_VIEWS`.
    """

    def __init__(
        self,
        explorer: Explorer,
        max_pixels: int = MAX_PIXELS,
        most: int = MOST_VIEWS,
    ):
        self.explorer = explorer
        self.max_pixels = max_pixels
        self.most = most
        self._views: collections.OrderedDict[str, View] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()
        self._making = threading.Lock()

    def open(self, path, name: str | None = None) -> str:
        """The key of an image file's view, which is computed if need be.

        Args:
            path: path of a file.
            name: string, what the file is called in errors. Defaults to
                `None`, its name.

        Raises:
            ValueError: if it is no image, or has too many pixels.
        """
        path = pathlib.Path(path)
        name = name or path.name
        try:
            height, width = read_size(path, PHOTO_FORMATS)
            if height * width > self.max_pixels:
                raise ValueError(
                    f"{path} has {height}x{width} pixels. Expected at most "
                    f"{self.max_pixels:,}: make it smaller, or start the page "
                    "with a larger --max-pixels."
                )
            key = hashlib.sha256(path.read_bytes()).hexdigest()
            # Others wait: the network computes one image at a time anyway.
            with self._making:
                if self._find(key) is None:
                    view = self.explorer.view(read_image(path))
                    with self._lock:
                        self._views[key] = view
                        while len(self._views) > self.most:
                            self._views.popitem(last=False)
        except (ValueError, OSError) as error:
            # Not where the file lies on this machine.
            raise ValueError(str(error).replace(str(path), name)) from error
        return key

    def get(self, key: str) -> View:
        """The view that `open` gave the key of.

        Raises:
            ValueError: if it is no longer kept.
        """
        view = self._find(key)
        if view is None:
            raise ValueError(
                "This image was put away, because others were opened since. "
                "Choose or upload it again."
            )
        return view

    def _find(self, key):
        with self._lock:
            view = self._views.get(key)
            if view is not None:
                self._views.move_to_end(key)
            return view
