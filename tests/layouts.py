"""Tiny datasets in the true layouts of the published ones."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Path:
    """A small noisy image in the format of its extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    Image.fromarray(values.squeeze()).convert(mode).save(path)
    return path


def write_cub(root: Path, classes: tuple[int, ...] = (1, 2, 101, 102)) -> Path:
    """CUB_200_2011/: images.txt, image_class_labels.txt, images/; three images a class."""
    top = root / "CUB_200_2011"
    images, labels = [], []
    for number, label in enumerate(np.repeat(classes, 3), 1):
        name = f"{label:03}.Some_Bird/Some_Bird_{number:04}.jpg"
        write_image(top / "images" / name, number)
        images.append(f"{number} {name}\n")
        labels.append(f"{number} {label}\n")
    (top / "images.txt").write_text("".join(images))
    (top / "image_class_labels.txt").write_text("".join(labels))
    return root


def write_cars(root: Path, classes: tuple[int, ...] = (1, 2, 99, 100)) -> Path:
    """names.csv, anno_train.csv, anno_test.csv, car_data/car_data/train|test/<name>/."""
    names = [f"Car {i}" for i in range(1, 197)]
    names[98] = "Ram C/V Cargo Van 2012"  # the slash becomes a dash in the folder's name
    root.mkdir(parents=True, exist_ok=True)
    (root / "names.csv").write_text("".join(f"{name}\n" for name in names))
    for split, count in (("train", 2), ("test", 1)):
        rows = []
        for number, label in enumerate(np.repeat(classes, count), 1):
            folder = names[label - 1].replace("/", "-")
            write_image(root / "car_data" / "car_data" / split / folder / f"{number:05}.jpg", int(number))
            rows.append(f"{number:05}.jpg,1,2,3,4,{label}\n")
        (root / f"anno_{split}.csv").write_text("".join(rows))
    return root


def write_sop(root: Path) -> Path:
    """Stanford_Online_Products/: Ebay_train.txt, Ebay_test.txt, <kind>_final/."""
    top = root / "Stanford_Online_Products"
    for split, first in (("train", 1), ("test", 11_319)):
        rows = ["image_id class_id super_class_id path\n"]
        for number, label in enumerate(np.repeat([first, first + 1], 2), first):
            name = f"chair_final/{number}_{label}.JPG"
            write_image(top / name, int(number))
            rows.append(f"{number} {label} 1 {name}\n")
        (top / f"Ebay_{split}.txt").write_text("".join(rows))
    return root


def write_omniglot(root: Path) -> Path:
    """images_background_small1|2/<alphabet>/characterNN/NNNN_NN.png, one bit, dark ink."""
    halves = {1: ("Balinese", "Greek", "Latin"), 2: ("Korean", "Greek", "Latin")}
    for half, alphabets in halves.items():
        for seed, alphabet in enumerate(alphabets):
            for character in (1, 2):
                for drawer in (1, 2, 3, 4, 5, 6):
                    name = f"{alphabet}/character{character:02}/{seed:03}{character}_{drawer:02}.png"
                    write_image(
                        root / f"images_background_small{half}" / name, 100 * half + seed, (105, 105), "1"
                    )
    return root


def write_visualphish(root: Path) -> Path:
    """trusted_list/<brand>/ and phishing/<brand>/, with the authors' targets.txt in each."""
    for half, brands in (("trusted_list", ("bank", "mail", "shop")), ("phishing", ("bank", "mail", "gone"))):
        for seed, brand in enumerate(brands):
            for page in range(2):
                name = f"T{half[0]}{seed}_{page}.png"
                write_image(root / half / brand / name, 10 * seed + page, (40, 20))
        (root / half / "targets.txt").write_text("\n".join(brands))
    return root
