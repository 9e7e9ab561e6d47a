"""Examples to look at: a query, its perturbation, and what is retrieved before and after."""

import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from leaderboard.board import NORM_NAMES
from leaderboard.canvas import BLUE, VERMILLION, WIDTHS, save
from leaderboard.errors import UserError
from leaderboard.records import safe_name, write_atomic

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class ExampleSet:
    """A few queries under attack. n queries, T retrieved items each (five).

    Images are in [0, 1] as float32, or uint8 (retrieved ones); C is 1 or 3.
    `class_names` maps labels to words; a label without one is printed as a number.
    """

    model: str
    dataset: str
    norm: str
    budget: str
    suite: str
    """Name and digest of the suite, as the figure's foot prints it."""
    protocol: int
    queries: int
    """How many queries were scored in all."""
    ids: Array
    """(n,) ids of the queries shown."""
    labels: Array
    """(n,) their classes."""
    images: Array
    """(n, C, H, W) float32."""
    adversarial: Array
    """(n, C, H, W) float32."""
    before: Array
    """(n, T, C, H, W) most similar gallery items of the clean query, best first."""
    before_labels: Array
    """(n, T)."""
    before_similarity: Array
    """(n, T) cosine, or negative squared distance."""
    after: Array
    """(n, T, C, H, W) the same for the perturbed query."""
    after_labels: Array
    """(n, T)."""
    after_similarity: Array
    """(n, T)."""
    class_names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, top = np.shape(self.before_labels)
        shape = np.shape(self.images)[1:]
        expected: dict[str, tuple[int, ...]] = {
            "ids": (n,),
            "labels": (n,),
            "images": (n, *shape),
            "adversarial": (n, *shape),
            "before": (n, top, *shape),
            "after": (n, top, *shape),
            "after_labels": (n, top),
            "before_similarity": (n, top),
            "after_similarity": (n, top),
        }
        for name, right in expected.items():
            if np.shape(getattr(self, name)) != right:
                raise ValueError(f"{name} has shape {np.shape(getattr(self, name))}, not {right}")
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(f"images have shape {shape}, not (1 or 3, H, W)")


_TEXTS = ("model", "dataset", "norm", "budget", "suite")
_NUMBERS = ("protocol", "queries")


def save_examples(path: Path, examples: ExampleSet) -> None:
    """Write a set as a compressed .npz without pickles; the same set gives the same bytes."""
    named = asdict(examples)
    names = named.pop("class_names")
    named["class_labels"] = np.array(list(names), dtype=np.int64)
    named["class_words"] = np.array(list(names.values()), dtype=np.str_)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{k: np.asarray(v) for k, v in named.items()})
    write_atomic(path, buffer.getvalue())


def load_examples(path: Path) -> ExampleSet:
    """Read a set; what is no such file raises UserError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = dict(file)
        labels, words = arrays.pop("class_labels").tolist(), arrays.pop("class_words").tolist()
        arrays |= {name: str(arrays[name]) for name in _TEXTS}
        arrays |= {name: int(arrays[name]) for name in _NUMBERS}
        known = {f.name for f in fields(ExampleSet)}
        if set(arrays) - known:
            raise ValueError("it holds arrays that are not known")
        return ExampleSet(**arrays, class_names=dict(zip(labels, words, strict=True)))
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a set of examples ({error}); delete it and run again") from error


def draw_all(
    results: Path, out: Path, problem: Callable[[str], None]
) -> Iterator[tuple[ExampleSet, list[Path]]]:
    """Draw every set of a results folder into `out`/examples; what cannot be read is told to `problem`."""
    for path in sorted((results / "examples").glob("*.npz")):
        try:
            examples = load_examples(path)
        except UserError as error:
            problem(str(error))
            continue
        yield examples, draw_examples(examples, out / "examples" / safe_name(path.stem))


def magnification(examples: ExampleSet) -> float:
    """By how much perturbations are scaled for the eye: one round number for the whole set."""
    largest = float(np.abs(examples.adversarial - examples.images).max(initial=0))
    if largest == 0:
        return 1.0
    wanted = 0.5 / largest
    power = 10 ** np.floor(np.log10(wanted))
    return float(max(m * power for m in (1, 2, 5) if m * power <= wanted * (1 + 1e-6)))


def draw_examples(examples: ExampleSet, stem: Path) -> list[Path]:
    """Draw `<stem>.png` and `.svg`: two lines per query, clean above attacked.

    A right item has a solid blue frame and a tick, a wrong one a dashed orange frame and a cross.
    """
    n, top = examples.before_labels.shape
    scale = magnification(examples)
    tile = (WIDTHS["two"] - 2 * _EDGE - _GAP - (top + 1) * _SPACE) / (top + 2)
    line = tile + _TEXT
    height = _HEAD + n * (2 * line + _BETWEEN) + _FOOT

    def draw(figure: Any) -> None:
        def axes(column: int, top_edge: float) -> Any:
            left = _EDGE + column * (tile + _SPACE) + (_GAP if column > 1 else 0)
            place = (left, height - top_edge - tile, tile, tile)
            size = (WIDTHS["two"], height)
            made = figure.add_axes([place[i] / size[i % 2] for i in range(4)])
            made.set_axis_off()
            return made

        _title(figure, examples, top, height)
        for i in range(n):
            upper = _HEAD + i * (2 * line + _BETWEEN) + _ABOVE
            lower = upper + line
            _draw_query(axes(0, upper), axes(0, lower), axes(1, lower), examples, i, scale)
            for when, edge in (("before", upper), ("after", lower)):
                _draw_found([axes(2 + t, edge) for t in range(top)], examples, i, when)

    foot = (
        f"RobustDML protocol {examples.protocol} · suite {examples.suite} · {n} of "
        f"{examples.queries:,} queries · change × {scale:g} around mid-grey · "
        "✓ solid: same class, ✗ dashed: other class; number: similarity"
    )
    return save(stem, draw, foot, "two", height, arranged=True)


# Inches: sheet edge, gap before the retrieved items, space between tiles, texts of a line and the
# part of them above the tile, distance between queries, title, footer.
_EDGE, _GAP, _SPACE, _TEXT, _ABOVE, _BETWEEN = 0.08, 0.3, 0.06, 0.36, 0.14, 0.16
_HEAD, _FOOT = 0.32, 0.16


def _title(figure: Any, examples: ExampleSet, top: int, height: float) -> None:
    text = (
        f"{examples.model} on {examples.dataset}, {_norm(examples)} budget {examples.budget}: "
        f"top {top} before and after"
    )
    where = (_EDGE / WIDTHS["two"], 1 - 0.06 / height)
    figure.text(*where, text, fontsize=9, ha="left", va="top")


def _norm(examples: ExampleSet) -> str:
    return NORM_NAMES.get(examples.norm, examples.norm)


def _draw_query(query: Any, attacked: Any, changed: Any, examples: ExampleSet, i: int, scale: float) -> None:
    clean, x = examples.images[i], examples.adversarial[i]
    change = x.astype(float) - clean.astype(float)
    size = np.abs(change).max() if examples.norm == "linf" else np.sqrt((change**2).sum())
    _show(query, clean, f"query {examples.ids[i]}", _word(examples, examples.labels[i]))
    _show(attacked, x, "attacked", f"{_norm(examples)} size {size:.3g}")
    _show(changed, 0.5 + scale * change, f"change × {scale:g}", "")


def _draw_found(row: Any, examples: ExampleSet, i: int, when: str) -> None:
    images, labels, similarity = (
        getattr(examples, name)[i] for name in (when, f"{when}_labels", f"{when}_similarity")
    )
    for axes, image, label, score in zip(row, images, labels, similarity, strict=True):
        right = label == examples.labels[i]
        _show(axes, image, f"{'✓' if right else '✗'} {_score(float(score))}", _word(examples, label))
        axes.title.set_color(BLUE if right else VERMILLION)
        axes.title.set_fontweight("bold")
        axes.set_axis_on()
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set(
                visible=True,
                color=BLUE if right else VERMILLION,
                linewidth=1.8,
                linestyle="-" if right else (0, (3, 1.5)),
                capstyle="butt",  # wider caps would close the gaps of the dashes
            )
    row[0].annotate(
        f"top {len(row)} {'before' if when == 'before' else 'after'}",
        (-0.09, 0.5),
        xycoords="axes fraction",
        rotation=90,
        ha="right",
        va="center",
        fontsize=7,
    )


def _score(similarity: float) -> str:
    """Print a cosine with two decimals, a squared distance shortly."""
    return f"{similarity:.2f}" if abs(similarity) < 10 else f"{similarity:.0f}"


def _word(examples: ExampleSet, label: Any) -> str:
    word = examples.class_names.get(int(label), f"class {int(label)}")
    return word if len(word) <= 18 else word[:17] + "…"


def _show(axes: Any, image: Array, above: str, below: str) -> None:
    pixels = image / 255 if image.dtype == np.uint8 else image
    pixels = np.clip(pixels, 0, 1).transpose(1, 2, 0)
    shown = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(above, fontsize=7, pad=2, loc="center")
    axes.text(0.5, -0.04, below, transform=axes.transAxes, ha="center", va="top", fontsize=6)
