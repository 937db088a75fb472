from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foedus.data import load_site_data
from foedus.errors import DataError
from foedus.site import SiteConfig
from foedus.study import Study

MakeSite = Callable[[str], SiteConfig]
MakeStudy = Callable[..., Study]
SavePng = Callable[..., Path]
WriteCsv = Callable[..., Path]
FOLDER = '[data]\nkind = "images"\npath = "scans"\n'
MANIFEST = '[data]\nkind = "images"\npath = "list.csv"\nlabel = "label"\n'
NPZ = '[data]\nkind = "images"\npath = "set.npz"\n'


def reasons(data: object) -> dict[str, str]:
    return {record.record: record.reason for record in data.quarantined}  # type: ignore[attr-defined]


def test_folder_per_class_is_read_in_sorted_order_with_bad_files_set_aside(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, save_png: SavePng
) -> None:
    for i in range(4):
        save_png(f"scans/cat/{i}.png", i)
        save_png(f"scans/dog/deep/{i}.png", 10 + i)
    whole = save_png("scans/cat/broken.png", 3).read_bytes()
    (tmp_path / "scans/cat/broken.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "scans/cat/notes.txt").write_text("hello", encoding="utf-8")
    (tmp_path / "scans/cat/Thumbs.db").write_text("hello", encoding="utf-8")
    save_png("scans/.hidden/1.png", 1)
    save_png("scans/stray.png", 1)
    save_png("scans/horse/1.png", 50)
    data = load_site_data(tmp_path, make_site(FOLDER), make_study(["dog", "cat"]))
    assert data.labels.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert reasons(data) == {
        "stray.png": "image is in no class folder",
        "cat/broken.png": "image is damaged or cut off",
        "cat/notes.txt": "not an image of a format that is read",
        "horse/1.png": "label is not a class of the study: 'horse'",
    }
    assert data.inputs[0].shape == (6, 5, 3)
    assert len(data.inputs) == 8


def test_class_folders_can_be_mapped(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, save_png: SavePng
) -> None:
    for i in range(3):
        save_png(f"scans/0/{i}.png", i)
        save_png(f"scans/1/{i}.png", 10 + i)
    site = make_site(FOLDER + '[data.labels]\n0 = "healthy"\n1 = "ill"\n')
    assert load_site_data(tmp_path, site, make_study(["healthy", "ill"])).labels.tolist() == [0] * 3 + [1] * 3


def test_folder_without_class_folders_or_with_columns_asked_for_is_refused(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, save_png: SavePng
) -> None:
    save_png("scans/1.png", 1)
    with pytest.raises(DataError, match="one sub-folder per class"):
        load_site_data(tmp_path, make_site(FOLDER), make_study(["a", "b"]))
    site = make_site(FOLDER + 'unit = "patient"\n[groups.sex]\ncolumn = "sex"\nvalues = {m = "male"}\n')
    with pytest.raises(
        DataError, match=r"\[data\] unit, \[groups.sex\] column: a folder of images has no columns"
    ):
        load_site_data(tmp_path, site, make_study(["a", "b"]))


def test_manifest_sets_aside_missing_empty_and_escaping_paths(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, save_png: SavePng, write_csv: WriteCsv
) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside.png"
    Image.new("RGB", (2, 2)).save(outside)
    for i in range(6):
        save_png(f"img/{i}.png", i)
    (tmp_path / "img/link.png").symlink_to(outside)
    (tmp_path / "img/good-link.png").symlink_to(tmp_path / "img/5.png")
    rows = [[f"img/{i}.png", "ab"[i % 2]] for i in range(6)]
    odd = [
        ["img/none.png", "a"],
        ["", "a"],
        ["img/link.png", "a"],
        [f"../{outside.name}", "b"],
        [str(outside), "b"],
    ]
    write_csv([["path", "label"], *rows, *odd, ["img/good-link.png", "b"], ["img/0.png", ""]], "list.csv")
    data = load_site_data(tmp_path, make_site(MANIFEST), make_study(["a", "b"]))
    assert len(data) == 7
    assert reasons(data) == {
        "row 7: img/none.png": "image file does not exist",
        "row 8: ": "image path is empty",
        "row 9: img/link.png": "image path leads outside the site's folder",
        f"row 10: ../{outside.name}": "image path leads outside the site's folder",
        f"row 11: {outside}": "image path leads outside the site's folder",
        "row 13: img/0.png": "no label",
    }


def test_link_to_a_folder_outside_is_not_followed(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, save_png: SavePng, write_csv: WriteCsv
) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    outside.mkdir()
    Image.new("RGB", (2, 2)).save(outside / "1.png")
    for i in range(4):
        save_png(f"scans/{'ab'[i % 2]}/{i}.png", i)
    (tmp_path / "scans/a/more").symlink_to(outside, target_is_directory=True)
    data = load_site_data(tmp_path, make_site(FOLDER), make_study(["a", "b"]))
    assert list(reasons(data)) == ["a/more"]
    write_csv(
        [["path", "label"], ["scans/a/more/1.png", "a"], *([f"scans/a/{i}.png", "a"] for i in (0, 2))],
        "list.csv",
    )
    data = load_site_data(tmp_path, make_site(MANIFEST), make_study(["a", "b"]))
    assert reasons(data) == {"row 1: scans/a/more/1.png": "image path leads outside the site's folder"}


def test_manifest_reads_units_and_groups(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, save_png: SavePng, write_csv: WriteCsv
) -> None:
    rows = [[f"{i}.png", "ab"[i % 2], f"P{i // 2}", "m" if i < 4 else ""] for i in range(8)]
    for i in range(8):
        save_png(f"{i}.png", i)
    write_csv([["path", "label", "patient", "sex"], *rows], "list.csv")
    site = make_site(MANIFEST + 'unit = "patient"\n[groups.sex]\ncolumn = "sex"\nvalues = {m = "male"}\n')
    data = load_site_data(tmp_path, site, make_study(["a", "b"]))
    assert data.units.tolist() == [f"P{i // 2}" for i in range(8)]
    assert data.groups["sex"].tolist() == ["male"] * 4 + ["unknown"] * 4


def test_second_load_does_not_decode(
    tmp_path: Path,
    make_site: MakeSite,
    make_study: MakeStudy,
    save_png: SavePng,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for i in range(4):
        save_png(f"scans/{'ab'[i % 2]}/{i}.png", i)
    first = load_site_data(tmp_path, make_site(FOLDER), make_study(["a", "b"]))
    monkeypatch.setattr("foedus.data.index.decode", lambda content: pytest.fail("decoded again"))
    assert load_site_data(tmp_path, make_site(FOLDER), make_study(["a", "b"])).digest == first.digest


def test_digest_follows_the_pixels_even_where_name_and_size_stay(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy
) -> None:
    for i in range(4):
        (tmp_path / f"scans/{'ab'[i % 2]}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"scans/{'ab'[i % 2]}/{i}.bmp")
    before = load_site_data(tmp_path, make_site(FOLDER), make_study(["a", "b"])).digest
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "scans/a/0.bmp")
    assert load_site_data(tmp_path, make_site(FOLDER), make_study(["a", "b"])).digest != before


def npz_arrays(shape: tuple[int, ...] = (4, 4)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"train": 5, "val": 3, "test": 4}
    images = {f"{k}_images": rng.integers(0, 256, (n, *shape), dtype=np.uint8) for k, n in sizes.items()}
    return images | {
        f"{k}_labels": (np.arange(n) % 2).reshape(n, 1).astype(np.uint8) for k, n in sizes.items()
    }


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
def test_npz_keeps_its_own_splits(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, shape: tuple[int, ...]
) -> None:
    arrays = npz_arrays(shape)
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    site = make_site(NPZ + '[data.labels]\n0 = "benign"\n1 = "malignant"\n')
    data = load_site_data(tmp_path, site, make_study(["benign", "malignant"]))
    assert [len(data.rows(split)) for split in ("train", "validation", "test")] == [5, 3, 4]
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 1]
    assert data.inputs[5].shape == (4, 4, 3)
    expected = arrays["val_images"][0]
    assert np.array_equal(data.inputs[5], expected if len(shape) == 3 else np.stack([expected] * 3, axis=2))


def test_npz_label_that_is_no_class_is_named_by_split_and_index(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy
) -> None:
    arrays = npz_arrays()
    arrays["test_labels"][2] = 7
    np.savez(tmp_path / "set.npz", **arrays)
    data = load_site_data(tmp_path, make_site(NPZ), make_study(["0", "1"]))
    assert reasons(data) == {"test 2": "label is not a class of the study: '7'"}
    assert len(data.inputs) == 11


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"val_labels": None}, "has no array val_labels"),
        ({"train_images": np.zeros((5, 4, 4, 4), np.uint8)}, "train_images is 5 x 4 x 4 x 4 uint8; expected"),
        ({"train_images": np.zeros((5, 4, 4))}, "train_images is 5 x 4 x 4 float64; expected"),
        ({"train_images": np.zeros((5, 8, 8), np.uint8)}, "images of several sizes"),
        ({"test_labels": np.zeros((4, 14), np.uint8)}, "test_labels is 4 x 14 for 4 images"),
        ({"test_labels": np.array([{}] * 4, dtype=object)}, "Python objects, which are never loaded"),
    ],
)
def test_npz_of_another_form_is_refused(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, change: dict[str, object], problem: str
) -> None:
    arrays = {key: value for key, value in (npz_arrays() | change).items() if value is not None}
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=problem):
        load_site_data(tmp_path, make_site(NPZ), make_study(["0", "1"]))


@pytest.mark.parametrize("keep", [0, 200, 900])
def test_npz_that_is_cut_off_is_refused(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, keep: int
) -> None:
    np.savez(tmp_path / "set.npz", **npz_arrays())
    content = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(content[:keep])
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        load_site_data(tmp_path, make_site(NPZ), make_study(["0", "1"]))


def test_npz_that_is_damaged_inside_is_refused(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy
) -> None:
    np.savez_compressed(tmp_path / "set.npz", **npz_arrays((16, 16)))
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[200:400] = bytes(200)
    (tmp_path / "set.npz").write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        load_site_data(tmp_path, make_site(NPZ), make_study(["0", "1"]))


def test_images_in_an_unknown_container_are_refused(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy
) -> None:
    (tmp_path / "all.zip").write_bytes(b"PK")
    site = make_site('[data]\nkind = "images"\npath = "all.zip"\n')
    with pytest.raises(DataError, match="not a way Foedus reads images"):
        load_site_data(tmp_path, site, make_study(["0", "1"]))
