"""PNG files from arrays, as the addresses of inline images."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt


def png_uri(image: npt.NDArray[np.uint8]) -> str:
    """A `data:` address of an image [H, W] (grey) or [H, W, 3] (red, green, blue), uint8.

    The file format is that of the PNG specification (ISO/IEC 15948), without filters.
    """
    height, width = image.shape[:2]
    color_type = 0 if image.ndim == 2 else 2
    rows = np.ascontiguousarray(image, dtype=np.uint8).reshape(height, -1)
    unfiltered = np.zeros((height, 1), np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(np.hstack([unfiltered, rows]).tobytes(), 9)), (b"IEND", b"")
    body = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)
    return f"data:image/png;base64,{base64.b64encode(body).decode('ascii')}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
