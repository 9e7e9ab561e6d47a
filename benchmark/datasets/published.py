"""The published datasets: one reader each, over the layouts in which they are handed out."""

import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attacks.errors import UserError
from benchmark.datasets import glyphs
from benchmark.datasets.files import FileImages, Transform, require
from benchmark.datasets.spec import DatasetSpec
from benchmark.tasks import RetrievalTask

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def image_files(folder: Path) -> list[Path]:
    """Return the image files directly in `folder`, sorted by name; hidden files are left out."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and p.name[0] != ".")
    return sorted(p for p in found if p.is_file())


def subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in `folder`, sorted by name; hidden ones are left out."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")


def leave_one_out(
    spec: DatasetSpec,
    place: Path,
    split: str,
    files: list[tuple[Path, int]],
    transform: Transform,
    **more: Any,
) -> RetrievalTask:
    """Check size and presence of the listed files and build the task of `spec`."""
    labels = [label for _, label in files]
    paths = [path for path, _ in files]
    spec.check_size(split, labels, place)
    require(paths, f"{spec.name}'s {split} split")
    return RetrievalTask.leave_one_out(
        FileImages(paths, transform),
        labels,
        ks=spec.ks,
        name=spec.name,
        paths=[str(p) for p in paths],
        **more,
    )


def load_pml(class_name: str, spec: DatasetSpec, root: Path | None, split: str) -> RetrievalTask:
    """Read CUB, Cars196 or SOP by pytorch-metric-learning's class, which knows layout and split."""
    place = spec.find(root)
    reader = getattr(importlib.import_module("pytorch_metric_learning.datasets"), class_name)
    try:
        found = reader(str(place), split=split)
    except FileNotFoundError as error:
        raise UserError(
            f"The folder {place} is not laid out as {spec.name}: {error.filename} is missing; {spec.get_it}."
        ) from error
    except (ValueError, IndexError, OSError) as error:
        raise UserError(
            f"The annotation files of {spec.name} in {place} are damaged ({error}); {spec.get_it}."
        ) from error
    files = [(Path(path), int(label)) for path, label in zip(found.paths, found.labels, strict=True)]
    if not files:
        raise UserError(f"The annotation files of {spec.name} in {place} list no images; {spec.get_it}.")
    return leave_one_out(spec, place, split, files, Transform(side=spec.shape[1]))


# Of each test class of the two sets of characters the first so many images are queries; all are gallery.
# Intervals are over classes, so more queries of a class say little more, and these sets are there to be
# scored in minutes.
CHARACTER_QUERIES = 5


def first_of_each(labels: Sequence[int], split: str) -> np.ndarray | None:
    """Places of the queries of a set of characters: (Q,) int64; None, all of them, of what trains."""
    if split != "test":
        return None
    seen: Counter[int] = Counter()
    places = []
    for place, label in enumerate(labels):
        seen[label] += 1
        if seen[label] <= CHARACTER_QUERIES:
            places.append(place)
    return np.array(places, np.int64)


def load_glyphs(spec: DatasetSpec, root: Path | None, split: str) -> RetrievalTask:
    """Read the embedded dataset; there is nothing to find below a root."""
    images, labels, characters = glyphs.load(split)
    spec.check_size(split, labels.tolist(), glyphs.FILE)
    tensor = torch.from_numpy(images[:, None].astype(np.float32) / np.float32(255))
    names = {int(y): characters[y] for y in np.unique(labels)}
    query = first_of_each(labels.tolist(), split)
    return RetrievalTask.leave_one_out(tensor, labels, query, ks=spec.ks, name=spec.name, class_names=names)


# Both alphabets are in small1 too, which trains: the test characters must be new ones.
SHARED_ALPHABETS = ("Greek", "Latin")


def load_omniglot(spec: DatasetSpec, root: Path | None, split: str) -> RetrievalTask:
    """Read Omniglot's small background sets in torchvision's layout: small1 trains, small2 tests."""
    place = spec.find(root)
    source = place / f"images_background_small{1 if split == 'train' else 2}"
    if not source.is_dir():
        raise UserError(f"The folder {source} is missing; {spec.get_it}.")
    alphabets = [a for a in subfolders(source) if split == "train" or a.name not in SHARED_ALPHABETS]
    characters = [character for alphabet in alphabets for character in subfolders(alphabet)]
    files = [(path, label) for label, folder in enumerate(characters) for path in image_files(folder)]
    names = {label: f"{folder.parent.name}/{folder.name}" for label, folder in enumerate(characters)}
    transform = Transform(side=28, mode="L", crop=False, invert=True)
    query = first_of_each([label for _, label in files], split)
    return leave_one_out(spec, source, split, files, transform, query=query, class_names=names)


def load_visualphish(spec: DatasetSpec, root: Path | None, split: str) -> RetrievalTask:
    """Read VisualPhish: phishing pages ask, trusted pages answer; the trusted pages alone train.

    Abdelnabi et al. 2020 (arXiv 1909.00300). Whole pages are stretched to the tensor, as the authors
    do: a centre crop would cut the logos off.
    """
    place = spec.find(root)
    trusted = list(_brands(place / "trusted_list"))
    phishing = list(_brands(place / "phishing"))
    numbers = {brand: i for i, brand in enumerate(sorted({b for _, b in trusted + phishing}))}
    names = {number: brand for brand, number in numbers.items()}
    transform = Transform(side=spec.shape[1], crop=False)
    pages = [(path, numbers[brand]) for path, brand in trusted]
    if split == "train":
        return leave_one_out(spec, place, split, pages, transform, class_names=names)
    lures = [(path, numbers[brand]) for path, brand in phishing]
    spec.check_size(split, [label for _, label in lures], place)
    return RetrievalTask.query_gallery(
        FileImages([path for path, _ in lures], transform),
        [label for _, label in lures],
        FileImages([path for path, _ in pages], transform),
        [label for _, label in pages],
        ks=spec.ks,
        name=spec.name,
        class_names=names,
        paths=[str(path) for path, _ in lures + pages],
    )


def _brands(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the pages of every brand below `folder`; UserError when there are none."""
    if not folder.is_dir():
        raise UserError(f"The folder {folder} is missing; VisualPhish has trusted_list/ and phishing/.")
    found = [(path, brand.name) for brand in subfolders(folder) for path in image_files(brand)]
    if not found:
        raise UserError(f"The folder {folder} holds no pages; lay them out as {folder.name}/<brand>/*.png.")
    yield from found
