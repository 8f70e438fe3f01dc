"""What decoders do not report about a PNG file."""

import struct
import zlib

GREY, COLOR, PALETTE = 0, 2, 3
PNG_KINDS = {
    GREY: "grey",
    COLOR: "colour",
    PALETTE: "palette",
    4: "grey and transparency",
    6: "colour and transparency",
}
_CHANNELS = {GREY: 1, COLOR: 3, PALETTE: 1, 4: 2, 6: 4}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# First column and row, and steps to the next ones, of the passes of an
# interlaced image (PNG specification, section 8.2).
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_PIECE = 2**20


def read_png_kind(path):
    """A PNG's bits per channel and colour type; 0 and None for others."""
    with open(path, "rb") as file:
        header = file.read(26)
    if header.startswith(PNG_SIGNATURE) and len(header) == 26:
        return header[24], header[25]
    return 0, None


def png_chunks(file):
    """Yields the kind and length of each chunk; its data may be read then."""
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        start = file.tell()
        yield kind, length
        file.seek(start + length + 4)


def check_png_rows(path):
    """Refuses a PNG that lacks rows, which Pillow would fill with black.

    In a label black is a class. Other files pass.

    Raises:
        EOFError: if it has fewer bytes of pixels than its header promises.
    """
    with open(path, "rb") as file:
        if file.read(8) != PNG_SIGNATURE:
            return
        inflate = zlib.decompressobj()
        missing = None
        for kind, length in png_chunks(file):
            if kind == b"IHDR":
                missing = _num_bytes(*struct.unpack(">IIBBxxB", file.read(13)))
            while kind == b"IDAT" and length and missing:
                piece = file.read(min(length, _PIECE))
                length -= len(piece)
                if not piece:
                    break
                while piece and missing:
                    # Limits the memory, however much a piece unpacks to.
                    data = inflate.decompress(piece, _PIECE)
                    missing -= min(len(data), missing)
                    piece = inflate.unconsumed_tail
            if missing == 0:
                return
    if missing:
        raise EOFError(f"its pixels end {missing} bytes too early")


def _num_bytes(width, height, depth, kind, interlaced):
    """How many bytes a PNG's pixels have, each row with its filter."""
    total = 0
    for left, top, right, down in _PASSES if interlaced else [(0, 0, 1, 1)]:
        columns = -((left - width) // right)
        rows = -((top - height) // down)
        if columns > 0 and rows > 0:
            bits = columns * depth * _CHANNELS.get(kind, 1)
            total += rows * (1 + -(-bits // 8))
    return total
