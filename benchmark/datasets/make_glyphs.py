"""Draw the glyphs dataset from the fonts that ship with matplotlib.

Run `python -m benchmark.datasets.make_glyphs`; it writes glyphs.npz beside this file and prints the
sha256 to pin in glyphs.py. A class is one character; its images are drawn in different families and
styles, each with its own affine and elastic change. Characters that look alike in any two faces
(Latin A and Greek Alpha, O and 0, c and C) are never both chosen: every pair is rendered and compared.

With the same versions of numpy, scipy, Pillow and matplotlib's fonts the file comes out byte for byte.
"""

import hashlib
import io
import unicodedata
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from benchmark.datasets.glyphs import FILE, SIDE, pack

Floats = npt.NDArray[np.float64]
Levels = npt.NDArray[np.uint8]

SEED = 2102
CLASSES = {"train": 140, "test": 100}
PER_CLASS = {"train": 24, "test": 20}
EM = 96  # the side of the masters, from which the small images are sampled
STYLES = {
    "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
    "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
    "cm": ("r10", "ss10", "tt10", "b10", "ti10"),
}
SCRIPTS = ("LATIN", "GREEK", "CYRILLIC", "GEORGIAN", "ARMENIAN", "DIGIT")
# The Computer Modern fonts hold other shapes at some code points, so only these are drawn from them.
PLAIN = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
# Belt and braces: at most one of each group, whatever the comparison of the renderings says.
ALIKE = ("O0oQ", "l1I|", "5Ss", "2Zz", "8B", "6b", "9gq", "uUvVν", "cC", "xX", "wW", "kK", "pP")
TOO_ALIKE = 0.86  # correlation of renderings at 24 x 24
FEWEST_FACES = 8


def faces() -> dict[str, Path]:
    """Return the font files by face name; all of them ship with matplotlib."""
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    names = [family + style for family, styles in STYLES.items() for style in styles]
    return {name: folder / f"{name}.ttf" for name in names}


def candidates(fonts: dict[str, Path]) -> dict[str, list[str]]:
    """Return the faces that hold each letter or digit, for those that are in enough of them."""
    holders: dict[str, list[str]] = {}
    for name, path in fonts.items():
        for code in FT2Font(str(path)).get_charmap():
            if not name.startswith("cm") or chr(code) in PLAIN:
                holders.setdefault(chr(code), []).append(name)
    return {
        character: holders[character]
        for character in sorted(holders)
        if len(holders[character]) >= FEWEST_FACES
        and unicodedata.name(character, "").split(" ")[0] in SCRIPTS
        and unicodedata.category(character) in ("Lu", "Ll", "Lo", "Nd")
        and not unicodedata.decomposition(character)
    }


def master(character: str, path: Path) -> Floats:
    """Draw one character large: (EM, EM) in [0, 1], its ink centred and three quarters of the side.

    Size within the line is dropped, as a crop would drop it; so c and C do look alike.
    """
    font = ImageFont.truetype(str(path), 160)
    canvas = Image.new("L", (480, 480))
    ImageDraw.Draw(canvas).text((240, 240), character, fill=255, font=font, anchor="mm")
    box = canvas.getbbox()
    assert box is not None, f"{character!r} has no ink in {path.name}"
    ink = canvas.crop(box)
    scale = 0.75 * EM / max(ink.size)
    small = ink.resize(
        (max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.BOX
    )
    page = Image.new("L", (EM, EM))
    page.paste(small, ((EM - small.width) // 2, (EM - small.height) // 2))
    return np.asarray(page, dtype=np.float64) / 255


def likeness(masters: list[Floats]) -> Floats:
    """Reduce one class's masters to unit vectors, (faces, 576), whose products are correlations."""
    small = np.stack([ndimage.zoom(ndimage.gaussian_filter(m, 1.5), 1 / 4, order=1) for m in masters])
    flat = small.reshape(len(masters), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True))


def choose(views: dict[str, Floats], count: int, rng: np.random.Generator) -> list[str]:
    """Take characters in random order, each unless it looks like one already taken."""
    taken: list[str] = []
    groups = {c: group for group in ALIKE for c in group}
    for character in rng.permutation(sorted(views)):
        rivals = [c for c in taken if groups.get(c, c) == groups.get(character, character)]
        if not rivals and all((views[character] @ views[c].T).max() < TOO_ALIKE for c in taken):
            taken.append(str(character))
        if len(taken) == count:
            return taken
    raise ValueError(f"only {len(taken)} characters differ enough; {count} are wanted")


def distort(drawing: Floats, rng: np.random.Generator) -> Levels:
    """Sample one small image from a master: (SIDE, SIDE) levels of ink, 0 to 15."""
    turn, shear = rng.uniform(-0.26, 0.26), rng.uniform(-0.22, 0.22)
    stretch = np.exp(rng.uniform(-0.2, 0.2, 2)) * EM / SIDE
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ np.array([[1.0, 0.0], [shear, 1.0]]) @ np.diag(stretch)
    # Three samples per pixel and side, averaged, so that thin strokes do not flicker.
    axis = (np.arange(3 * SIDE) + 0.5) / 3 - SIDE / 2
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij")) + rng.uniform(-2.0, 2.0, (2, 1, 1))
    bend = ndimage.gaussian_filter(rng.standard_normal((2, SIDE, SIDE)), (0, 4.0, 4.0))
    bend *= rng.uniform(0.5, 1.2) / bend.std()
    grid += ndimage.zoom(bend, (1, 3, 3), order=1)
    where = np.tensordot(matrix, grid, axes=1) + (EM - 1) / 2
    fine = ndimage.map_coordinates(drawing, where, order=1)
    coarse = fine.reshape(SIDE, 3, SIDE, 3).mean(axis=(1, 3))
    return np.rint(np.clip(coarse, 0, 1) * 15).astype(np.uint8)


def draw_class(masters: list[Floats], count: int, rng: np.random.Generator) -> Levels:
    """Draw `count` images of one class, (count, SIDE, SIDE), every face about equally often."""
    order = np.concatenate([rng.permutation(len(masters)) for _ in range(count)])[:count]
    return np.stack([distort(masters[face], rng) for face in order])


def make(classes: dict[str, int], per_class: dict[str, int], seed: int = SEED) -> bytes:
    """Return the bytes of the dataset's file for so many classes and images a class."""
    rng = np.random.default_rng(seed)
    fonts = faces()
    masters = {c: [master(c, fonts[f]) for f in held] for c, held in candidates(fonts).items()}
    chosen = choose({c: likeness(m) for c, m in masters.items()}, sum(classes.values()), rng)
    strokes, labels, split = [], [], []
    for number, character in enumerate(chosen):
        half = "train" if number < classes["train"] else "test"
        strokes.append(draw_class(masters[character], per_class[half], rng))
        labels += [number] * per_class[half]
        split += [half == "test"] * per_class[half]
    paper = rng.integers(15, 65, len(labels))
    contrast = rng.integers(120, 185, len(labels))
    out = io.BytesIO()
    pack(out, np.concatenate(strokes), np.array(labels), np.array(split), paper, paper + contrast, chosen)
    return out.getvalue()


if __name__ == "__main__":
    content = make(CLASSES, PER_CLASS)
    FILE.write_bytes(content)
    print(len(content), hashlib.sha256(content).hexdigest())  # noqa: T201
