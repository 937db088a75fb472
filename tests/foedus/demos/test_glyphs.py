import csv
from collections import Counter

import numpy as np
from PIL import Image

from foedus.demos import Prepared
from foedus.demos.glyphs import CHARACTERS, DESKS, NEW_DESK, SMALL, class_name
from foedus.site import find_sites, load_site
from foedus.study import load_study


def _manifest(prepared: Prepared, desk: str) -> list[dict[str, str]]:
    with (prepared.sites_path / desk / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_study_has_the_classes_that_are_drawn(glyphs: Prepared) -> None:
    study = load_study(glyphs.study_path)
    assert study.study.classes == [class_name(character) for character in CHARACTERS]
    assert len({name.casefold() for name in study.study.classes}) == 38
    assert {load_site(folder).site.name for folder in find_sites(glyphs.sites_path)} == set(DESKS)


def test_manifests_list_every_image(glyphs: Prepared) -> None:
    counts = {}
    for desk in DESKS:
        rows = _manifest(glyphs, desk)
        counts[desk] = len(rows)
        assert {row["path"] for row in rows} == {
            f"glyphs/{path.name}" for path in (glyphs.sites_path / desk / "glyphs").iterdir()
        }
    assert counts == {"northdesk": 1086, "eastdesk": 912, "southdesk": 684, "westdesk": 684, "newdesk": 912}


def test_no_writer_works_at_two_desks() -> None:
    fonts = [{style.font for style in styles} for styles in DESKS.values()]
    assert sum(len(own) for own in fonts) == len(set.union(*fonts)) == 11


def test_no_glyph_is_on_two_sides_of_a_split(glyphs: Prepared) -> None:
    for desk in DESKS:
        sides = {(row["glyph"], row["split"]) for row in _manifest(glyphs, desk)}
        assert len(sides) == len({glyph for glyph, _ in sides})
        assert {split for _, split in sides} == {"train", "validation", "test"}


def test_new_desk_has_enough_of_each_novel_class(glyphs: Prepared) -> None:
    fewshot = load_study(glyphs.study_path).fewshot
    assert fewshot is not None
    assert fewshot.new_sites == [NEW_DESK]
    counts = Counter(row["label"] for row in _manifest(glyphs, NEW_DESK))
    need = max(*fewshot.curve_shots, fewshot.n_shot) + fewshot.n_query
    assert all(counts[name] >= need for name in fewshot.novel_classes)


def test_a_font_without_small_letters_draws_none(glyphs: Prepared) -> None:
    rows = _manifest(glyphs, "northdesk")
    marker = {row["label"] for row in rows if row["glyph"].startswith("PermanentMarker")}
    assert len(marker) == len(CHARACTERS) - len(SMALL)
    assert not any(label.startswith("small-") for label in marker)


def test_images_show_a_dark_glyph_on_white_that_is_not_cut_off(glyphs: Prepared) -> None:
    for path in list((glyphs.sites_path / "westdesk" / "glyphs").iterdir())[:200]:
        with Image.open(path) as image:
            assert image.mode == "L"
            pixels = np.asarray(image)
        assert pixels.shape == (64, 64)
        assert pixels.min() < 100
        assert pixels[[0, -1]].min() > 200
        assert pixels[:, [0, -1]].min() > 200
