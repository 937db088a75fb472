"""Images of any size as the square a network reads."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foedus.errors import BackboneError

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


def to_square(image: object, side: int, interpolation: str) -> NDArray[np.uint8]:
    """The whole image, stretched to (side, side, 3), uint8; nothing is cut off.

    Raises:
        BackboneError: If it is not a uint8 array of shape (H, W) or (H, W, 3).
    """
    if not isinstance(image, np.ndarray):
        raise BackboneError(f"an image is a {type(image).__name__}, expected a uint8 array.")
    fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not fits or image.size == 0:
        raise BackboneError(
            f"an image has shape {image.shape} and type {image.dtype}, expected uint8 of shape "
            "(H, W) or (H, W, 3)."
        )
    resized = Image.fromarray(image).resize((side, side), FILTERS[interpolation])
    pixels = np.asarray(resized)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def to_batch(
    images: Sequence[object], side: int, interpolation: str, *, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """(n, 3, side, side), float32, in channels-last memory order: (x / 255 - mean) / std."""
    squares = np.stack([to_square(image, side, interpolation) for image in images])
    scale = 1 / (255 * np.asarray(std, np.float32))
    shift = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
    batch = squares.astype(np.float32) * scale - shift
    return np.moveaxis(batch.astype(np.float32, copy=False), 3, 1)
