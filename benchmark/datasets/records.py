"""The table of datasets. Budgets and headline radii follow from the tensor (protocol, "Task")."""

from functools import partial

from attacks.table import Table
from benchmark.datasets.published import load_glyphs, load_omniglot, load_pml, load_visualphish
from benchmark.datasets.spec import DatasetSpec

DATASETS: Table[DatasetSpec] = Table("dataset")

_PHOTO = (3, 224, 224)
_ROWS = (
    DatasetSpec(
        name="glyphs",
        about="Characters in many fonts; embedded, always there; 5 of 20 images a class are queries",
        shape=(1, 32, 32),
        load=load_glyphs,
        source="Rendered by benchmark/datasets/make_glyphs.py from the fonts that ship with matplotlib",
        licence="Drawn from fonts whose licences allow it (DejaVu, STIX, Computer Modern)",
        sizes={"train": (3_360, 140), "test": (2_000, 100)},
    ),
    DatasetSpec(
        name="cub200",
        about="Caltech-UCSD Birds 200-2011",
        shape=_PHOTO,
        load=partial(load_pml, "CUB"),
        source="Wah et al., Caltech technical report CNS-TR-2011-001, 2011",
        licence="For non-commercial research",
        folders=("cub200",),
        marker="CUB_200_2011",
        sizes={"train": (5_864, 100), "test": (5_924, 100)},
        get_it="get it by `robustdml data download cub200`",
    ),
    DatasetSpec(
        name="cars196",
        about="Stanford Cars, 196 models",
        shape=_PHOTO,
        load=partial(load_pml, "Cars196"),
        source="Krause et al., 3D Object Representations for Fine-Grained Categorization, 2013",
        licence="For non-commercial research",
        folders=("cars196",),
        marker="names.csv",
        sizes={"train": (8_054, 98), "test": (8_131, 98)},
        get_it="get it by `robustdml data download cars196`",
    ),
    DatasetSpec(
        name="sop",
        about="Stanford Online Products",
        shape=_PHOTO,
        load=partial(load_pml, "StanfordOnlineProducts"),
        source="Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, arXiv 1511.06452",
        licence="For non-commercial research",
        ks=(1, 10, 100, 1000),
        folders=("sop",),
        marker="Stanford_Online_Products",
        sizes={"train": (59_551, 11_318), "test": (60_502, 11_316)},
        get_it="get it by `robustdml data download sop`",
    ),
    DatasetSpec(
        name="visualphish",
        about="VisualPhish: phishing pages ask, trusted pages answer",
        shape=_PHOTO,
        load=load_visualphish,
        source="Abdelnabi et al., VisualPhishNet, arXiv 1909.00300",
        licence="Given by its authors on request, for research",
        folders=("visualphish", "VisualPhish"),
        marker="trusted_list",
        get_it="ask its authors for the data (docs/add-a-dataset.md) and lay it out as "
        "trusted_list/<brand>/*.png and phishing/<brand>/*.png",
    ),
    DatasetSpec(
        name="cars196-half",
        about="The official training half of Cars196, cropped to the car at 96 px",
        shape=(3, 64, 64),
        load=partial(load_pml, "Cars196"),
        source="Krause et al. 2013; not comparable with published figures of the full size",
        licence="For non-commercial research",
        folders=("cars196-half", "cars196-half/cars196"),
        marker="names.csv",
        sizes={"train": (4_052, 98), "test": (4_092, 98)},
        get_it="unzip the cropped half there, in the layout of Cars196",
    ),
    DatasetSpec(
        name="omniglot",
        about="Omniglot's small background sets: small1 trains, small2 without shared alphabets tests",
        shape=(1, 28, 28),
        load=load_omniglot,
        source="Lake et al., Human-level concept learning through probabilistic program induction, 2015",
        licence="MIT",
        folders=("omniglot", "omniglot/omniglot-py", "omniglot-py"),
        marker="images_background_small2",
        sizes={"train": (2_720, 136), "test": (2_120, 106)},
        get_it="unzip images_background_small1.zip and images_background_small2.zip of the authors there",
    ),
)
for _row in _ROWS:
    DATASETS.add(_row.name, _row)
