"""TIFF files that are read piece by piece: their tiles or strips."""

import collections
import contextlib
import io
import os
import zlib

import numpy as np
from PIL import Image

TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf8", ".svs")
# What a file may ask for.
MAX_LARGE_PIXELS = 2**33
MAX_PIECE_BYTES = 2**28
# Decoded pieces that are kept: windows beside each other share them.
CACHE_BYTES = 2**28
DEFLATE, JPEG, ORIENTATION = (8, 32946), 7, 274
# None, LZW, PackBits and ZSTD: imagecodecs fills no more than a piece of them.
COMPRESSIONS = (1, 5, 32773, 50000, JPEG, *DEFLATE)


@contextlib.contextmanager
def open_tiff(path):
    """A `TiffImage` of a file's first page.

    Raises:
        ValueError: if it is no TIFF, or none of 8-bit RGB or grey pixels, or
            asks for more than there can be.
        ImportError: without the package tifffile.
    """
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(
            f"{path} is read tile by tile with tifffile, which is not "
            "installed: pip install 'keras-danet[tiff]'"
        ) from error
    with open(path, "rb") as file:
        try:
            image = TiffImage(path, file, tifffile.TiffFile(file).pages[0])
        except _Refused as refused:
            raise ValueError(f"{path} {refused}.") from None
        # What a wrong file makes of a reader has no end of kinds.
        except Exception as error:
            raise ValueError(
                f"{path} is no TIFF image that can be read ({error})."
            ) from error
        yield image


class _Refused(ValueError):
    """What an image has is known, and not read."""


class TiffImage:
    """A page of a TIFF as an array (height, width, 3), read where indexed.

    Args:
        path: path, for messages.
        file: the file, open for reading bytes.
        page: `tifffile.TiffPage`.
    """

    dtype = np.dtype("uint8")

    def __init__(self, path, file, page):
        self.path, self._file, self._page = path, file, page
        self._cache = collections.OrderedDict()
        self._channels = page.samplesperpixel
        self.shape = page.imagelength, page.imagewidth, 3
        if page.is_tiled:
            self._piece = page.tilelength, page.tilewidth
        else:
            rows = min(page.rowsperstrip or page.imagelength, page.imagelength)
            self._piece = rows, page.imagewidth
        self._check()
        self._across = -(-self.shape[1] // self._piece[1])

    def _check(self):
        page = self._page
        kind = int(page.photometric)
        # Only JPEG's own colours are converted when they are decoded.
        is_rgb = kind == 2 or (kind == 6 and int(page.compression) == JPEG)
        plain = {1: kind == 1, 3: is_rgb}.get(self._channels, False)
        if (
            not plain
            or page.dtype != np.uint8
            or int(page.planarconfig) != 1
            or page.imagedepth != 1
        ):
            self._refuse(
                "holds other pixels than 8-bit RGB or grey in one plane "
                f"({page.dtype}, {self._channels} channels, "
                f"{getattr(page.photometric, 'name', kind)}). Convert it"
            )
        if int(page.compression) not in COMPRESSIONS:
            self._refuse(
                "is compressed by "
                f"{getattr(page.compression, 'name', page.compression)}. "
                "Expected none, LZW, Deflate, PackBits, ZSTD or JPEG. Convert "
                "it"
            )
        height, width, _ = self.shape
        if min(height, width, *self._piece) < 1:
            self._refuse(f"is empty ({height} x {width} pixels)")
        turned = page.tags.get(ORIENTATION)
        if turned is not None and turned.value != 1:
            self._refuse(
                f"is turned by its orientation, {turned.value}. Save it "
                "upright, without one"
            )
        if height * width > MAX_LARGE_PIXELS:
            self._refuse(
                f"says that it has {height} x {width} pixels. At most "
                f"{MAX_LARGE_PIXELS} are read. Cut it into pieces"
            )
        if self._piece_bytes > MAX_PIECE_BYTES:
            self._refuse(
                f"has tiles or strips of {self._piece[0]} x {self._piece[1]} "
                f"pixels. At most {MAX_PIECE_BYTES} bytes are read at a time. "
                "Save it with tiles"
            )
        rows, columns = (
            -(-side // piece)
            for side, piece in zip(self.shape, self._piece, strict=False)
        )
        size = os.fstat(self._file.fileno()).st_size
        places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        if len(places) < rows * columns:
            self._refuse(
                f"has {len(places)} tiles or strips of {rows * columns}"
            )
        if any(start < 0 or start + count > size for start, count in places):
            self._refuse("is cut off: a tile or strip ends after the file")

    @property
    def _piece_bytes(self):
        return self._piece[0] * self._piece[1] * self._channels

    def _refuse(self, problem):
        raise _Refused(problem)

    def __getitem__(self, place):
        (top, bottom, _), (left, right, _) = (
            part.indices(side)
            for part, side in zip(place, self.shape, strict=False)
        )
        high, wide = self._piece
        result = np.zeros((bottom - top, right - left, 3), "uint8")
        for row in range(top // high, -(-bottom // high)):
            for column in range(left // wide, -(-right // wide)):
                piece = self._read(row * self._across + column)
                y, x = row * high, column * wide
                # Edges of the piece that are within what was asked for.
                first, last = max(top, y), min(bottom, y + len(piece))
                start, stop = max(left, x), min(right, x + piece.shape[1])
                if first < last and start < stop:
                    result[
                        first - top : last - top, start - left : stop - left
                    ] = piece[first - y : last - y, start - x : stop - x]
        return result

    def _read(self, index):
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        page = self._page
        try:
            self._file.seek(page.dataoffsets[index])
            # A tile without bytes was left out: it is black.
            data = self._file.read(page.databytecounts[index]) or None
            if data is not None:
                self._check_unpacked(data)
            piece, _, shape = page.decode(
                data, index, jpegtables=page.jpegtables
            )
        except Exception as error:
            raise ValueError(
                f"{self.path}: its tile or strip {index} cannot be read "
                f"({error}). A compressed one may need: pip install "
                "imagecodecs"
            ) from error
        if piece is None:
            piece = np.zeros((*shape[1:3], self._channels), "uint8")
        piece = piece.reshape(piece.shape[-3:])
        self._cache[index] = piece
        while len(self._cache) * self._piece_bytes > CACHE_BYTES:
            self._cache.popitem(last=False)
            if not self._cache:
                break
        return piece

    def _check_unpacked(self, data):
        """Little data may ask for much memory."""
        compression = int(self._page.compression)
        if compression in DEFLATE:
            most = self._piece_bytes
            is_more = (
                len(zlib.decompressobj().decompress(data, most + 1)) > most
            )
        elif compression == JPEG:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as piece:
                width, height = piece.size
            is_more = height > self._piece[0] or width > self._piece[1]
        else:
            return
        if is_more:
            raise ValueError("it unpacks to more than its size")
