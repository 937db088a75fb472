"""Image files and arrays as (H, W, 3) uint8, decoded one at a time."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from foedus.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 89_478_485
"""Largest image that is decoded: Pillow's own bound against decompression bombs (1/4 GiB of RGB)."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
"""Only these decoders run; Pillow's others (EPS calls Ghostscript) never see a site's files."""

DICOM_SUFFIXES = (".dcm", ".dicom")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".jp2"),
    *DICOM_SUFFIXES,
)

DAMAGED = "image is damaged or cut off"
TOO_LARGE = f"image has more than {MAX_PIXELS // 10**6} megapixels; make it smaller"


class UnreadableImageError(Exception):
    """An image cannot be used; the message is the reason for its quarantine."""


def decode(content: bytes, *, suffix: str = "", max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The picture as it is meant to be looked at, (H, W, 3) uint8.

    EXIF orientation is applied; grey is repeated in three channels; transparent pixels lie on white;
    images of more than 8 bits are stretched from their own minimum and maximum to 0..255, because
    files do not say how many of their 16 bits are in use; of several frames the first is read.
    DICOM says more, and is shown as it says (see foedus.data.dicom).

    Args:
        content: The file.
        suffix: Its suffix: ".dcm" makes DICOM of what has no preamble and is no other format.
        max_pixels: Largest image that is decoded.

    Raises:
        UnreadableImageError: If it is damaged, of an unknown format or too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if content[128:132] == b"DICM":
        return _decode_dicom(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise Image.DecompressionBombError
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise UnreadableImageError(TOO_LARGE) from None
    except UnidentifiedImageError as error:
        if suffix.lower() in DICOM_SUFFIXES:
            return _decode_dicom(content)
        raise UnreadableImageError("not an image of a format that is read") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise UnreadableImageError(DAMAGED) from error


def _decode_dicom(content: bytes) -> NDArray[np.uint8]:
    from foedus.data.dicom import decode_dicom  # imports pydicom

    return decode_dicom(content)


def _to_rgb(image: "Image.Image") -> NDArray[np.uint8]:
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        return grey_to_rgb(stretched(np.asarray(image)))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def stretched(values: NDArray[Any], *, counted: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Values from their minimum and maximum to 0..255; what is not finite becomes 0.

    Args:
        values: Any shape.
        counted: Same shape: which values minimum and maximum are of; all when None or when none is.
    """
    numbers = values.astype(np.float64)
    finite = np.isfinite(numbers)
    if not finite.any():
        raise UnreadableImageError("image holds no finite value")
    range_of = finite if counted is None or not (finite & counted).any() else finite & counted
    low, high = numbers[range_of].min(), numbers[range_of].max()
    scaled = (np.where(finite, numbers, low) - low) / (high - low if high > low else 1.0)
    levels: NDArray[np.uint8] = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return levels


def grey_to_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) as (H, W, 3)."""
    return np.repeat(grey[:, :, None], 3, axis=2)


class ImageFiles(Sequence[NDArray[np.uint8]]):
    """Image files; item i is read and decoded when it is asked for, (H, W, 3) uint8.

    Args:
        paths: One file per record.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageFiles": ...
    def __getitem__(self, index: int | slice) -> "NDArray[np.uint8] | ImageFiles":
        if isinstance(index, slice):
            return ImageFiles(self.paths[index])
        try:
            path = self.paths[index]
            return decode(path.read_bytes(), suffix=path.suffix)
        except (OSError, UnreadableImageError):
            raise DataError(
                f"image {index} was readable when the site was checked and is not now; "
                "run foedus site check and start again."
            ) from None


class ImageArray(Sequence[NDArray[np.uint8]]):
    """Images of one size in memory; item i is (H, W, 3) uint8.

    Args:
        pixels: (n, H, W) or (n, H, W, 3), uint8.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageArray": ...
    def __getitem__(self, index: int | slice) -> "NDArray[np.uint8] | ImageArray":
        if isinstance(index, slice):
            return ImageArray(self.pixels[index])
        picture: NDArray[np.uint8] = self.pixels[index]
        return grey_to_rgb(picture) if picture.ndim == 2 else picture
