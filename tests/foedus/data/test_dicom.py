import io
import logging
import random
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from foedus.data import check_site, dicom, load_site_data
from foedus.data.dicom import decode_dicom
from foedus.data.images import ImageFiles, UnreadableImageError, decode
from foedus.site import SiteConfig

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
READABLE = """
693_J2KI CT_small ExplVR_BigEnd J2K_pixelrep_mismatch JPEG2000 MR_small MR_small_RLE MR_small_bigendian
MR_small_expb MR_small_implicit MR_small_jp2klossless MR_small_padded SC_jpeg_no_color_transform
SC_rgb_dcmtk_+eb+cr SC_rgb_dcmtk_+eb+cy+n1 SC_rgb_dcmtk_+eb+cy+np SC_rgb_gdcm_KY SC_rgb_jpeg
SC_rgb_jpeg_app14_dcmd SC_rgb_jpeg_dcmd SC_rgb_jpeg_dcmtk SC_rgb_jpeg_lossy_gdcm SC_rgb_rle SC_rgb_rle_16bit
SC_rgb_rle_16bit_2frame SC_rgb_rle_2frame SC_rgb_rle_32bit SC_rgb_rle_32bit_2frame SC_rgb_small_odd
SC_rgb_small_odd_big_endian SC_rgb_small_odd_jpeg SC_ybr_full_422_uncompressed examples_jpeg2k
examples_overlay examples_palette examples_rgb_color examples_ybr_color image_dfl liver_1frame
liver_expb_1frame rtdose rtdose_1frame rtdose_expb rtdose_rle
"""


def content(name: str) -> bytes:
    return (FILES / f"{name}.dcm").read_bytes()


def changed(name: str, **tags: Any) -> bytes:
    """A file of pydicom's with some tags set, or removed (None)."""
    header = pydicom.dcmread(FILES / f"{name}.dcm")
    for keyword, value in tags.items():
        if value is None:
            delattr(header, keyword)
        else:
            setattr(header, keyword, value)
            if header[keyword].VR == "US or SS":
                header[keyword].VR = "SS"
    return saved(header)


def saved(header: Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, header)
    return buffer.getvalue()


def grey(values: list[list[int]], kind: str = "i2", **tags: Any) -> bytes:
    """A small greyscale file of these stored values."""
    pixels = np.array(values, dtype=kind)
    described = {"PixelRepresentation": int(kind.startswith("i")), "WindowCenter": None, "WindowWidth": None}
    size = {"Rows": pixels.shape[0], "Columns": pixels.shape[1], "PixelData": pixels.tobytes()}
    return changed("MR_small", **(described | size | tags))


def first_channel(picture: np.ndarray) -> list[list[int]]:
    assert (picture == picture[:, :, :1]).all()
    return picture[:, :, 0].tolist()


@pytest.mark.filterwarnings("ignore")  # of pydicom, when the test reads a file with it
@pytest.mark.parametrize("name", READABLE.split())
def test_files_with_a_decoder_become_rgb_bytes(name: str) -> None:
    picture = decode(content(name))
    header = pydicom.dcmread(FILES / f"{name}.dcm")
    assert picture.shape == (header.Rows, header.Columns, 3)
    assert picture.dtype == np.uint8
    assert picture.min() < picture.max()


def test_values_without_a_window_are_stretched_from_smallest_to_largest() -> None:
    values = apply_modality_lut(pydicom.dcmread(FILES / "CT_small.dcm").pixel_array, Dataset()).astype(float)
    expected = (values - values.min()) / np.ptp(values) * 255
    assert np.abs(decode(content("CT_small"))[:, :, 0] - expected).max() <= 0.5


@pytest.mark.parametrize("tags", [{}, {"VOILUTFunction": "SIGMOID"}, {"VOILUTFunction": "LINEAR_EXACT"}])
@pytest.mark.parametrize("name", ["MR_small", "examples_overlay", "693_J2KI"])
def test_first_window_is_applied_after_the_rescale(name: str, tags: dict[str, str]) -> None:
    file = changed(name, **tags)
    header = pydicom.dcmread(io.BytesIO(file))
    values = apply_windowing(apply_modality_lut(header.pixel_array, header), header)
    ends = np.array([-(2 ** (header.BitsStored - 1)), 2 ** (header.BitsStored - 1) - 1])
    if header.PixelRepresentation == 0:
        ends = np.array([0, 2**header.BitsStored - 1])
    low, high = ends * header.get("RescaleSlope", 1) + header.get("RescaleIntercept", 0)
    assert np.abs(decode(file)[:, :, 0] - (values - low) / (high - low) * 255).max() <= 0.5 + 1e-9


def test_window_of_one_is_a_threshold_and_a_window_that_cannot_be_is_none() -> None:
    values = [[0, 10, 20, 40]]
    window = {"WindowCenter": "20.5", "WindowWidth": "1"}
    assert first_channel(decode(grey(values, **window))) == [[0, 0, 0, 255]]
    assert first_channel(decode(grey(values, **window | {"WindowWidth": "0"}))) == [[0, 64, 128, 255]]


def test_monochrome1_is_inverted() -> None:
    inverted = decode(changed("MR_small", PhotometricInterpretation="MONOCHROME1"))
    assert (inverted == 255 - decode(content("MR_small"))).all()


def test_modality_table_comes_before_the_window_and_a_voi_table_instead_of_it() -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 10, 16], [100, 200, 400, 300]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    values = [[9, 10, 12, 13, 99]]
    tags = {"ModalityLUTSequence": Sequence([table])}
    assert first_channel(decode(grey(values, "u2", **tags))) == [[0, 0, 255, 170, 170]]
    tags = {"VOILUTSequence": Sequence([table]), "WindowCenter": "1", "WindowWidth": "2"}
    expected = [round(entry / 65535 * 255) for entry in (100, 100, 400, 300, 300)]
    assert first_channel(decode(grey(values, "u2", **tags))) == [expected]


def test_table_as_bytes_is_read_like_one_as_numbers() -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [3, 0, 8])
    table.add_new("LUTData", "OW", np.array([0, 128, 255], dtype="<u2").tobytes())
    file = grey([[0, 1, 2]], "u2", VOILUTSequence=Sequence([table]))
    assert first_channel(decode(file)) == [[0, 128, 255]]


@pytest.mark.parametrize(("kind", "padding"), [("i2", -2000), ("u2", 63536)])
def test_padding_is_left_out_of_the_range_whatever_its_sign(kind: str, padding: int) -> None:
    values = [[padding, 100, 150, 200]]
    header = pydicom.dcmread(io.BytesIO(grey(values, kind)))
    for vr, declared in (("SS", -2000), ("US", 63536)):
        header.add_new("PixelPaddingValue", vr, declared)
        end = 255 if kind == "u2" else 0
        assert first_channel(decode(saved(header))) == [[end, 0, 128, 255]]


def test_padding_range_is_left_out_and_a_picture_of_padding_alone_is_black() -> None:
    tags = {"PixelPaddingValue": -5, "PixelPaddingRangeLimit": -9}
    assert first_channel(decode(grey([[-9, -7, -5, 0, 10]], **tags))) == [[0, 0, 0, 0, 255]]
    assert first_channel(decode(grey([[-5, -5]], **tags))) == [[0, 0]]


def test_rgb_is_taken_as_it_is_and_more_bits_are_scaled_to_eight() -> None:
    header = pydicom.dcmread(FILES / "examples_rgb_color.dcm")
    assert (decode(content("examples_rgb_color")) == header.pixel_array).all()
    deep = pydicom.dcmread(FILES / "SC_rgb_rle_16bit.dcm").pixel_array
    assert np.abs(decode(content("SC_rgb_rle_16bit")) - deep / 65535 * 255).max() <= 0.5


def test_ybr_becomes_rgb() -> None:
    raw = pydicom.dcmread(FILES / "SC_rgb_jpeg_dcmtk.dcm")
    frame = next(pydicom.encaps.generate_frames(raw.PixelData, number_of_frames=1))
    with Image.open(io.BytesIO(frame)) as image:
        expected = np.asarray(image.convert("RGB")).astype(int)  # Pillow's own conversion
    assert np.abs(decode(content("SC_rgb_jpeg_dcmtk")).astype(int) - expected).max() <= 2


def test_palette_is_looked_up() -> None:
    header = pydicom.dcmread(FILES / "examples_palette.dcm")
    expected = apply_color_lut(header.pixel_array, header) / 65535 * 255
    assert np.abs(decode(content("examples_palette")) - expected).max() <= 0.5


def test_segmented_palette_is_looked_up() -> None:
    header = pydicom.dcmread(FILES / "examples_palette.dcm")
    for colour in ("Red", "Green", "Blue"):
        table = np.frombuffer(header[f"{colour}PaletteColorLookupTableData"].value, dtype="<u2")
        discrete = np.concatenate([[0, len(table)], table]).astype("<u2")
        delattr(header, f"{colour}PaletteColorLookupTableData")
        setattr(header, f"Segmented{colour}PaletteColorLookupTableData", discrete.tobytes())
    assert (decode(saved(header)) == decode(content("examples_palette"))).all()


def test_first_of_several_frames_is_read() -> None:
    frames = pydicom.dcmread(FILES / "rtdose.dcm").pixel_array.astype(float)
    assert len(frames) == 15
    expected = (frames[0] - frames[0].min()) / np.ptp(frames[0]) * 255
    assert np.abs(decode(content("rtdose"))[:, :, 0] - expected).max() <= 0.5


def test_first_frame_of_an_enhanced_file_has_its_own_rescale_and_window() -> None:
    rescale, window = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = "2", "-100"
    window.WindowCenter, window.WindowWidth = "100.5", "201"
    shared, frame = Dataset(), Dataset()
    shared.PixelValueTransformationSequence = Sequence([rescale])
    frame.FrameVOILUTSequence = Sequence([window])
    groups = {
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence([frame]),
    }
    assert first_channel(decode(grey([[50, 100, 150, 900]], **groups))) == [[0, 128, 255, 255]]


def test_file_without_a_preamble_needs_its_suffix() -> None:
    bare = content("MR_small_implicit")[132:]
    with pytest.raises(UnreadableImageError, match="not an image of a format that is read"):
        decode(bare)
    assert (decode(bare, suffix=".DCM") == decode(content("MR_small_implicit"))).all()


def test_png_under_the_name_of_a_dicom_file_is_a_png() -> None:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), 7).save(buffer, "PNG")
    assert decode(buffer.getvalue(), suffix=".dcm").shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (content("JPEGLSNearLossless_08"), "DICOM compression is not read: JPEG-LS Lossy"),
        (content("JPEG-lossy"), "DICOM compression is not read: JPEG Extended"),
        (content("SC_rgb_jpeg_gdcm"), "DICOM compression is not read: JPEG Lossless"),
        (content("rtplan"), "DICOM file holds no image"),
        (content("test-SR"), "DICOM file holds no image"),
        (content("MR_truncated"), "image is damaged or cut off"),
        (content("MR_small")[:1500], "image is damaged or cut off"),
        (content("GDCMJ2K_TextGBR"), "image is damaged or cut off"),
        (content("GDCMJ2K_TextGBR").replace(b"\0\0\0\x1cftyp", b"\0\0\0\0ftyp"), "damaged or cut off"),
        (content("badVR"), "image is damaged or cut off"),
        (b"\0" * 128 + b"DICM", "DICOM file holds no image"),
        (changed("MR_small", Rows=60_000, Columns=60_000), "more than 89 megapixels"),
        (changed("examples_rgb_color", PhotometricInterpretation="HSV"), "DICOM colours are not read"),
        (changed("examples_rgb_color", PhotometricInterpretation="YBR_ICT"), "DICOM colours are not read"),
    ],
)
def test_unreadable_file_has_a_reason(file: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        decode(file)


def test_deflated_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    header = pydicom.dcmread(io.BytesIO(grey([[0] * 1000] * 1000)))
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    bomb = saved(header)
    assert decode(bomb).shape == (1000, 1000, 3)
    assert len(bomb) < 10_000
    monkeypatch.setattr(dicom, "MAX_INFLATED_BYTES", 1_000_000)
    monkeypatch.setattr(pydicom, "dcmread", None)
    with pytest.raises(UnreadableImageError, match="more than 89 megapixels"):
        decode(bomb)


def damaged_files() -> list[bytes]:
    """Files in which a patient is called ZEBRA and tags say ZEBRA where they should not."""
    named = {"PatientName": "ZEBRA^ZEBRA", "PatientID": "ZEBRA-1", "PatientBirthDate": "20010203"}
    file = changed("MR_small", **named, SpecificCharacterSet="ISO_IR 100").replace(b"20010203", b"ZEBRA-10")
    rng = random.Random(7)
    cut = [file[: rng.randrange(132, len(file))] for _ in range(60)]
    flipped = []
    for _ in range(100):
        spoilt = bytearray(file)
        for _ in range(10):
            spoilt[rng.randrange(132, 1800)] = rng.randrange(256)
        flipped.append(bytes(spoilt))
    wrong = [
        file.replace(b"MONOCHROME2 ", b"ZEBRA-1     "),
        file.replace(b"1.2.840.10008.1.2.1\0", b"ZEBRA.840.10008.1.2\0"),
        file.replace(b"ISO_IR 100", b"ZEBRA-1000"),
        file.replace(b"600 ", b"ZEBR").replace(b"1600", b"ZEBR"),
    ]
    assert all(spoilt != file for spoilt in wrong)
    return [file, *cut, *flipped, *wrong]


def test_no_value_of_a_tag_is_in_any_message_record_or_warning(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    said = []
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        for file in damaged_files():
            try:
                decode_dicom(file)
            except UnreadableImageError as error:
                said += traceback.format_exception(error)
    said += [str(warning.message) for warning in warned] + caplog.messages + list(capfd.readouterr())
    assert any("damaged" in text for text in said)
    assert not [text for text in said if "ZEBR" in text]


def test_pydicom_may_speak_again_afterwards() -> None:
    level = logging.getLogger("pydicom").level
    decode(content("MR_small"))
    with pytest.raises(UnreadableImageError):
        decode(content("MR_truncated"))
    assert logging.getLogger("pydicom").level == level


def test_site_with_dicom_files_is_checked_and_loaded(
    tmp_path: Path, make_site: Callable[[str], SiteConfig], make_study: Callable[..., Any]
) -> None:
    for i in range(8):
        label = ["ill", "well"][i % 2]
        (tmp_path / "scans" / label).mkdir(parents=True, exist_ok=True)
        name = ["a.dcm", "b.dicom", "IM0001", "c.DCM"][i // 2]
        (tmp_path / "scans" / label / name).write_bytes(grey([[0, i, 100]]))
    (tmp_path / "scans" / "ill" / "report.dcm").write_bytes(content("rtplan"))
    (tmp_path / "scans" / "well" / "jls.dcm").write_bytes(content("MR_small_jpeg_ls_lossless"))
    (tmp_path / "scans" / "stray.dcm").write_bytes(content("MR_small"))
    site = make_site('[data]\nkind = "images"\npath = "scans"\n')
    data = load_site_data(tmp_path, site, make_study(["ill", "well"]))
    assert len(data) == 8
    assert isinstance(data.inputs, ImageFiles)
    assert sorted(data.inputs[i][0, 1, 0] for i in range(8)) == [round(i * 2.55) for i in range(8)]
    assert [record.kind for record in data.quarantined] == [
        "image is in no class folder",
        "DICOM file holds no image",
        "DICOM compression is not read",
    ]
    report = check_site(tmp_path)
    assert report.ok
    fixes = [row.how_to_fix for row in report.rows if row.check == "set aside"]
    assert "export it uncompressed, or as RLE, JPEG or JPEG 2000" in fixes


def test_manifest_may_name_dicom_files(
    tmp_path: Path, make_site: Callable[[str], SiteConfig], write_csv: Callable[..., Path]
) -> None:
    for i in range(6):
        (tmp_path / f"IM{i}").write_bytes(grey([[0, i, 100]]))
    write_csv([["path", "label"], *[[f"IM{i}", "ab"[i % 2]] for i in range(6)]], "list.csv")
    make_site('[data]\nkind = "images"\npath = "list.csv"\nlabel = "label"\n')
    report = check_site(tmp_path)
    assert report.ok
    assert report.quarantined == []
