"""DICOM files as (H, W, 3) uint8. The one place that parses them; no value of a tag leaves it but pixels."""

import io
import logging
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut

from foedus.data.images import DAMAGED, MAX_PIXELS, TOO_LARGE, UnreadableImageError, grey_to_rgb, stretched

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
PALETTE = [
    f"{segmented}{colour}PaletteColorLookupTableData"
    for segmented in ("", "Segmented")
    for colour in ("Red", "Green", "Blue")
]
USED = [
    *PIXELS,
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PlanarConfiguration"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *PALETTE,
]
"""The only tags that are read: none describes a patient."""

JP2_HEADER = b"\x00\x00\x00\x0cjP  "
MAX_INFLATED_BYTES = 2**30
"""Largest deflated file that is unpacked."""

_one_at_a_time = threading.Lock()


def decode_dicom(content: bytes) -> NDArray[np.uint8]:
    """The picture as a viewer first shows it, (H, W, 3) uint8; of several frames the first.

    Grey: the modality LUT or rescale, then the VOI LUT, else the first window, else a stretch from the
    smallest to the largest value (pixel padding left out); MONOCHROME1 is inverted. Colour: RGB, YBR and
    palettes, scaled to 8 bits.

    Raises:
        UnreadableImageError: If the file holds no image, is too large or damaged, or its compression or
            colours are not read here. The message holds nothing from the file.
    """
    with _one_at_a_time, _silence():
        try:
            return _picture(_read(content))
        except UnreadableImageError:
            raise
        except Exception:  # whatever a damaged file leads pydicom to; its text may quote the file
            raise UnreadableImageError(DAMAGED) from None


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps pydicom's warnings and log records, which quote values, from everyone. Not for two threads."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # its child loggers inherit the level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _read(content: bytes) -> pydicom.Dataset:
    file = io.BytesIO(content)
    file.seek(132 if content[128:132] == b"DICM" else 0)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        if len(inflate.decompress(content[file.tell() :], MAX_INFLATED_BYTES)) == MAX_INFLATED_BYTES:
            raise UnreadableImageError(TOO_LARGE)
    return pydicom.dcmread(io.BytesIO(content), force=True, specific_tags=list(USED))


def _picture(header: pydicom.Dataset) -> NDArray[np.uint8]:
    if not any(keyword in header for keyword in PIXELS):
        raise UnreadableImageError(DAMAGED if "Rows" in header else "DICOM file holds no image")
    if header.Rows * header.Columns > MAX_PIXELS:
        raise UnreadableImageError(TOO_LARGE)
    stored, colours = _first_frame(header)
    if colours in ("MONOCHROME1", "MONOCHROME2"):
        grey = _grey(stored, header)
        return grey_to_rgb(255 - grey if colours == "MONOCHROME1" else grey)
    if colours == "PALETTE COLOR":
        return _levels(_palette(stored, header))
    if colours == "RGB" and stored.dtype == np.uint8 and header.BitsStored == 8:
        return stored
    if colours == "RGB":
        return _levels(stored / (2.0**header.BitsStored - 1))
    raise UnreadableImageError("DICOM colours are not read")


def _first_frame(header: pydicom.Dataset) -> tuple[NDArray[Any], str]:
    """Stored values, (H, W) or (H, W, 3), and their photometric interpretation; YBR has become RGB."""
    syntax = uid.UID(header.file_meta.get("TransferSyntaxUID") or _guessed_syntax(header))
    known = f": {syntax.name}" if syntax.name != str(syntax) else ""  # an unknown one is the file's own text
    refused = f"DICOM compression is not read{known}"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise UnreadableImageError(refused) from None
    pillow_alone = decoder.available_plugins == ("pillow",)
    deep = pillow_alone and header.BitsStored > 8
    if not decoder.is_available or (
        deep and (syntax == uid.JPEGExtended12Bit or header.SamplesPerPixel > 1)  # 8 bits are all it reads
    ):
        raise UnreadableImageError(refused)
    if syntax in uid.JPEG2000TransferSyntaxes:
        _refuse_endless(
            get_frame(header.PixelData, 0, number_of_frames=int(header.get("NumberOfFrames") or 1))
        )
    stored, found = decoder.as_array(header, index=0)
    return stored, str(found["photometric_interpretation"])


def _refuse_endless(frame: bytes) -> None:
    """A box shorter than its own header keeps pydicom looking for the next one for ever."""
    offset = 12
    while frame.startswith(JP2_HEADER) and offset < len(frame) and frame[offset + 4 : offset + 8] != b"jp2c":
        length = int.from_bytes(frame[offset : offset + 4], "big")
        if length < 8:
            raise UnreadableImageError(DAMAGED)
        offset += length


def _guessed_syntax(header: pydicom.Dataset) -> str:
    """The plain transfer syntax that fits how a file without one was read."""
    implicit, little = header.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _grey(stored: NDArray[Any], header: pydicom.Dataset) -> NDArray[np.uint8]:
    """Modality, then VOI transformation (PS3.3 C.11.1, C.11.2); (H, W) uint8."""
    values: NDArray[Any] = stored if stored.dtype.kind == "f" else stored.astype(np.int64)
    modality = _macro(header, "PixelValueTransformationSequence")
    if modality.get("ModalityLUTSequence"):
        values, _ = _looked_up(values, modality.ModalityLUTSequence[0], header)
    elif modality.get("RescaleSlope") is not None and modality.get("RescaleIntercept") is not None:
        values = values * float(modality.RescaleSlope) + float(modality.RescaleIntercept)
    voi = _macro(header, "FrameVOILUTSequence")
    if voi.get("VOILUTSequence"):
        entries, bits = _looked_up(np.rint(values).astype(np.int64), voi.VOILUTSequence[0], header)
        return _levels(entries / (2.0**bits - 1))
    shown = _windowed(values, voi)
    return stretched(values, counted=_not_padding(stored, header)) if shown is None else _levels(shown)


def _macro(header: pydicom.Dataset, name: str) -> pydicom.Dataset:
    """Where an enhanced multi-frame file describes its first frame, else the header itself."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        if header.get(groups) and header[groups].value[0].get(name):
            described: pydicom.Dataset = header[groups].value[0][name].value[0]
            return described
    return header


def _windowed(values: NDArray[Any], voi: pydicom.Dataset) -> NDArray[np.float64] | None:
    """Values as 0..1 through the first window (PS3.3 C.11.2.1.2, C.11.2.1.3); None if there is none."""
    center, width = _first(voi.get("WindowCenter")), _first(voi.get("WindowWidth"))
    function = str(voi.get("VOILUTFunction") or "LINEAR").upper()
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return (values - center) / width + 0.5


def _first(value: Any) -> float | None:
    """The first of several values; None where there is no number."""
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if value else None
    return None if value is None or value == "" else float(value)


def _not_padding(stored: NDArray[Any], header: pydicom.Dataset) -> NDArray[np.bool_]:
    """Which stored values are picture; padding may be declared with the other signedness."""
    ends = [header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")]
    given = [int(end) for end in ends if end is not None]
    if not given or stored.dtype.kind == "f":
        return np.ones(stored.shape, dtype=bool)
    size = stored.dtype.itemsize
    wrapped = np.array([end % 2 ** (8 * size) for end in given], dtype=f"u{size}")
    low, high = np.sort(wrapped.view(f"{stored.dtype.kind}{size}"))[[0, -1]]
    outside: NDArray[np.bool_] = (stored < low) | (stored > high)
    return outside


def _looked_up(
    values: NDArray[np.int64], table: pydicom.Dataset, header: pydicom.Dataset
) -> tuple[NDArray[np.int64], int]:
    """Each value's entry in a modality or VOI LUT, and the bits of an entry."""
    size, first, bits = table.LUTDescriptor
    entries = _entries(table.LUTData, size, header)
    return entries[np.clip(values - first, 0, len(entries) - 1)], bits


def _entries(data: Any, size: int, header: pydicom.Dataset) -> NDArray[np.int64]:
    """A lookup table's entries; as bytes they have 8 or 16 bits, whichever makes `size` of them."""
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
    count = size % 2**16 or 2**16
    little = header.original_encoding[1]
    kind = "u1" if len(data) < 2 * count else "<u2" if little else ">u2"
    return np.frombuffer(data, dtype=kind, count=count).astype(np.int64)


def _palette(stored: NDArray[Any], header: pydicom.Dataset) -> NDArray[np.float64]:
    """(H, W, 3) of 0..1."""
    size, first, bits = header.RedPaletteColorLookupTableDescriptor
    if PALETTE[0] in header:
        tables = [_entries(header[name].value, size, header) for name in PALETTE[:3]]
        rows = np.clip(stored.astype(np.int64) - first, 0, len(tables[0]) - 1)
        coloured = np.stack([table[rows] for table in tables], axis=-1)
    else:  # segmented
        coloured = apply_color_lut(stored, header)
    shares: NDArray[np.float64] = coloured / (2.0**bits - 1)
    return shares


def _levels(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """0..1 as 0..255; what lies outside is cut off, what is not a number is black."""
    levels: NDArray[np.uint8] = np.rint(np.clip(np.nan_to_num(shares), 0, 1) * 255).astype(np.uint8)
    return levels
