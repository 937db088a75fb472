"""Reading characters from few examples: handwriting fonts are the writers, desks are the sites.

Data: drawn here with Pillow from the handwriting fonts of the fontpkg packages (Open Font License;
Permanent Marker: Apache-2.0). Classes are 38 of the 47 of EMNIST-balanced (Cohen et al. 2017), less
those that one writer's hand makes alike (0 O, 1 I, 5 S, 2 Z, U V, 6 b, 9 q).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from foedus.demos.packages import installed_file
from foedus.demos.writing import write_csv, write_site, write_study

SUMMARY = "four desks learn characters from handwriting fonts, a new desk meets new ones (few-shot)"
CAPITALS, SMALL, DIGITS = "ABCDEFGHJKLMNPQRTUWXY", "adefghnrt", "23456789"
CHARACTERS = CAPITALS + SMALL + DIGITS
VARIATIONS = 6
SIDE = 64
NEW_DESK = "newdesk"

_DRAWN_AT, _CANVAS = 96, 320  # points and pixels: large enough for the widest capital
_BOX = 48.0  # longer side of a glyph without variation, pixels


@dataclass(frozen=True)
class Style:
    """A pen in a writer's hand: a font file, at a weight if the font is variable."""

    font: str
    file: str
    weight: int | None = None
    small: bool = True
    """Whether the font has small letters at all."""

    @property
    def name(self) -> str:
        stem = self.file.split(".")[0].split("[")[0]
        return stem if self.weight is None else f"{stem}-{self.weight}"


_WEIGHTS = (400, 500, 600, 700)
DESKS: dict[str, tuple[Style, ...]] = {
    "northdesk": (
        *(Style("caveat", "Caveat[wght].ttf", weight) for weight in _WEIGHTS),
        Style("permanent-marker", "PermanentMarker-Regular.ttf", small=False),
    ),
    "eastdesk": tuple(Style("dancing-script", "DancingScript[wght].ttf", weight) for weight in _WEIGHTS),
    "southdesk": tuple(Style("kalam", f"Kalam-{cut}.ttf") for cut in ("Light", "Regular", "Bold")),
    "westdesk": (
        Style("great-vibes", "GreatVibes-Regular.ttf"),
        Style("yellowtail", "Yellowtail-Regular.ttf"),
        Style("shadows-into-light", "ShadowsIntoLight.ttf"),
    ),
    NEW_DESK: (
        Style("delius", "Delius-Regular.ttf"),
        Style("indie-flower", "IndieFlower-Regular.ttf"),
        Style("satisfy", "Satisfy-Regular.ttf"),
        Style("zeyada", "Zeyada.ttf"),
    ),
}


def write(folder: Path, *, seed: int, cache: Path) -> None:
    """Write the study: each desk's glyphs as PNG files and a manifest of path, label, glyph and split."""
    write_study(Path(__file__).parent, folder, seed=seed)
    fonts = {style: _open(style) for styles in DESKS.values() for style in styles}
    data = {"kind": "images", "path": "manifest.csv", "label": "label", "image": "path", "unit": "glyph"}
    for desk, styles in DESKS.items():
        site = write_site(folder / "sites", desk, data=data, split={"column": "split"})
        (site / "glyphs").mkdir()
        rows = []
        for number, character in enumerate(CHARACTERS):
            writers = [style for style in styles if style.small or character not in SMALL]
            for turn, style in enumerate(writers):
                split = _split((turn + number) % len(writers), new=desk == NEW_DESK)
                glyph = f"{style.name}-{class_name(character)}"
                drawn = _draw(fonts[style], character)
                rng = np.random.default_rng([seed, number, *style.name.encode()])
                for variation in range(VARIATIONS):
                    path = f"glyphs/{glyph}-{variation}.png"
                    _vary(drawn, rng, first=variation == 0).save(site / path, compress_level=1)
                    rows.append((path, class_name(character), glyph, split))
        write_csv(site / "manifest.csv", ("path", "label", "glyph", "split"), rows)


def class_name(character: str) -> str:
    """Name of the class: "A" and "a" must differ also where file names ignore case."""
    return f"small-{character}" if character in SMALL else character


def _split(turn: int, *, new: bool) -> str:
    """Whole glyphs are held out: one style of each character tests, another validates.

    The new desk trains no rounds, so what the others train on it tests on as well.
    """
    turns = {0: "train", 1: "validation"} if new else {0: "test", 1: "validation"}
    return turns.get(turn, "test" if new else "train")


def _open(style: Style) -> ImageFont.FreeTypeFont:
    package = f"fontpkg_{style.font.replace('-', '_')}"
    path = installed_file(package, f"files/{style.file}", demo="glyphs", install=f"fontpkg-{style.font}")
    font = ImageFont.truetype(str(path), _DRAWN_AT)
    if style.weight is not None:
        font.set_variation_by_axes([style.weight])
    return font


def _draw(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """The character alone, white on black, cut to its ink."""
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    ImageDraw.Draw(canvas).text((_CANVAS // 2, _CANVAS // 2), character, font=font, fill=255, anchor="mm")
    return canvas.crop(canvas.getbbox())


def _vary(glyph: Image.Image, rng: np.random.Generator, *, first: bool) -> Image.Image:
    """Black on white, 64 x 64; all but the first turned by up to 10 degrees, scaled and shifted."""
    scale = _BOX / max(glyph.size) * (1.0 if first else rng.uniform(0.8, 1.0))
    angle = 0.0 if first else rng.uniform(-10.0, 10.0)
    right, down = (0, 0) if first else rng.integers(-3, 4, size=2).tolist()
    size = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    ink = glyph.resize(size, Image.Resampling.BILINEAR)
    ink = ink.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    page = Image.new("L", (SIDE, SIDE))
    page.paste(ink, ((SIDE - ink.width) // 2 + right, (SIDE - ink.height) // 2 + down))
    return ImageOps.invert(page)
