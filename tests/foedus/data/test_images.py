import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foedus.data import images
from foedus.data.images import ImageArray, ImageFiles, UnreadableImageError, decode
from foedus.errors import DataError


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_grey_is_repeated_in_three_channels() -> None:
    picture = decode(encoded(Image.fromarray(np.array([[0, 100]], dtype=np.uint8))))
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[[0, 0, 0], [100, 100, 100]]]


def test_transparent_pixels_lie_on_white() -> None:
    pixels = np.array([[[0, 0, 0, 0], [10, 20, 30, 255]]], dtype=np.uint8)
    assert decode(encoded(Image.fromarray(pixels))).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_palette_is_looked_up_and_its_transparency_respected() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 0, 0, 0])
    image.putdata([0, 1])
    assert decode(encoded(image)).tolist() == [[[9, 8, 7], [0, 0, 0]]]
    assert decode(encoded(image, transparency=1)).tolist() == [[[9, 8, 7], [255, 255, 255]]]


def test_sixteen_bits_are_stretched_from_their_own_range() -> None:
    values = np.array([[1000, 2000, 5000]], dtype=np.uint16)
    assert decode(encoded(Image.fromarray(values)))[0, :, 0].tolist() == [0, 64, 255]


def test_constant_sixteen_bit_image_is_black_not_an_error() -> None:
    assert decode(encoded(Image.fromarray(np.full((2, 2), 700, dtype=np.uint16)))).max() == 0


def test_float_tiff_without_a_finite_value_is_unreadable() -> None:
    image = Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32))
    with pytest.raises(UnreadableImageError, match="holds no finite value"):
        images._to_rgb(image)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    assert decode(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)).shape == (20, 10, 3)


def test_cmyk_jpeg_is_read() -> None:
    assert decode(encoded(Image.new("CMYK", (8, 8)), "JPEG")).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded(Image.effect_noise((64, 64), 50))[:900], "damaged or cut off"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:700], "damaged or cut off"),
        (b"hello", "not an image of a format that is read"),
        (b"", "not an image of a format that is read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a format that is read"),
    ],
)
def test_unreadable_image_has_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        decode(content)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [9_600, 20_000])
def test_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    bomb = encoded(Image.new("1", (side, side)))
    assert len(bomb) < 100_000
    with pytest.raises(UnreadableImageError, match="more than 89 megapixels; make it smaller"):
        decode(bomb)


def test_image_files_decode_on_access_and_say_so_when_a_file_has_gone(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), "red").save(tmp_path / "a.png")
    pictures = ImageFiles([tmp_path / "a.png", tmp_path / "gone.png"])
    assert len(pictures) == 2
    assert pictures[0].shape == (2, 3, 3)
    assert len(pictures[:1]) == 1
    with pytest.raises(DataError, match="image 1 was readable when the site was checked") as caught:
        pictures[1]
    assert "gone" not in str(caught.value)


def test_image_array_gives_three_channels_whatever_it_holds() -> None:
    assert ImageArray(np.zeros((2, 4, 5), dtype=np.uint8))[1].shape == (4, 5, 3)
    colour = ImageArray(np.zeros((2, 4, 5, 3), dtype=np.uint8))
    assert colour[0].shape == (4, 5, 3)
    assert [len(colour), len(colour[1:]), len(list(colour))] == [2, 1, 2]
