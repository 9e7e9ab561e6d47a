"""Train the bundled glyphs models and write them into the zoo.

    python examples/make_bundled.py [NAME ...]

Each is a few minutes on one core. A run that was stopped goes on from its last epoch (build/bundled);
with the same versions of torch and one thread the weights come out the same.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from attacks.table import Table
from benchmark import evaluate
from benchmark.datasets import load_task
from benchmark.training import Training, make
from models.cards import store, write_zoo
from models.recipes import (
    ACT,
    EST,
    HM,
    Natural,
    Panum2021,
    Panum2021Naive,
    Recipe,
    VisualPhishNet,
    VisualPhishNetAdv,
)
from models.registry import ZOO, load
from models.spec import InputSpec, ModelSpec, read_toml
from models.training import Settings

ROOT = Path(__file__).parents[1]
FILE = ZOO / "glyphs.toml"
COMMENT = "Small models trained on the embedded glyphs dataset; written by examples/make_bundled.py."

GLYPHS: dict[str, Any] = {
    **{"trained_on": "glyphs", "saw_test_classes": "no", "licence": "Apache-2.0"},
    "input": InputSpec(channels=1),
}
CONVNET: dict[str, Any] = {"arch": "convnet", "dim": 64, **GLYPHS}
VISUALPHISHNET: dict[str, Any] = {
    **{"arch": "visualphishnet", "options": {"trunk": "small"}, "dim": 64, "head": "none"},
    **{"distance": "euclidean", "loss": "triplet", "paper": "arXiv 1909.00300", **GLYPHS},
}
EPS = "0.1"
# The sibling of a robust model is trained for as long, on the same batches.
LENGTH = Settings(epochs=30, rate=3e-3, amp=True)
SLOWLY = replace(LENGTH, rate=1e-3)


@dataclass(frozen=True)
class Bundled:
    """One model: what it is, what its batches' loss is, and how long it is trained."""

    spec: ModelSpec
    recipe: Recipe
    settings: Settings = LENGTH


def convnet(name: str, title: str, recipe: Recipe, loss: str, **facts: Any) -> Bundled:
    """The small convnet, trained by a recipe; a defence is named with its sibling and its paper."""
    defended: dict[str, Any] = {"defence_eps": EPS} if recipe.budget else {}
    spec = ModelSpec(name=name, title=title, training=recipe.name, loss=loss, **defended, **facts, **CONVNET)
    return Bundled(spec, recipe)


def visualphishnet(name: str, title: str, recipe: Recipe, **facts: Any) -> Bundled:
    """VisualPhishNet with a trunk for small images."""
    spec = ModelSpec(name=name, title=title, training=recipe.name, **facts, **VISUALPHISHNET)
    return Bundled(spec, recipe, SLOWLY)


PANUM = "arXiv 2102.07265"
BUNDLED: Table[Bundled] = Table("bundled model")
for _bundled in (
    convnet("glyphs-natural", "Convnet, natural", Natural(loss="contrastive"), "contrastive"),
    visualphishnet("glyphs-visualphishnet", "VisualPhishNet (small)", VisualPhishNet(), baseline=True),
    convnet(
        "glyphs-panum2021",
        "Convnet, Panum et al. 2021 (anchor)",
        Panum2021(loss="contrastive", role="anchor", eps=EPS),
        "contrastive",
        **{"sibling": "glyphs-natural", "paper": PANUM},
    ),
    convnet(
        "glyphs-panum2021-naive",
        "Convnet, all moved at once (naive)",
        Panum2021Naive(loss="contrastive", eps=EPS),
        "contrastive",
        **{"sibling": "glyphs-natural", "paper": PANUM},
    ),
    convnet("glyphs-natural-triplet", "Convnet, natural (triplet)", Natural(loss="triplet"), "triplet"),
    convnet(
        "glyphs-est",
        "Convnet, EST",
        EST(eps=EPS),
        "triplet",
        **{"sibling": "glyphs-natural-triplet", "paper": "arXiv 2002.11293"},
    ),
    convnet(
        "glyphs-act",
        "Convnet, ACT",
        ACT(eps=EPS),
        "triplet",
        **{"sibling": "glyphs-natural-triplet", "paper": "arXiv 2106.03614"},
    ),
    convnet(
        "glyphs-hm",
        "Convnet, HM (gradual adversary)",
        HM(eps=EPS),
        "triplet",
        **{"sibling": "glyphs-natural-triplet", "paper": "arXiv 2203.01439"},
    ),
    visualphishnet(
        "glyphs-visualphishnet-adv",
        "VisualPhishNet (small), made robust",
        VisualPhishNetAdv(eps=EPS),
        defence_eps=EPS,
        sibling="glyphs-visualphishnet",
    ),
):
    BUNDLED.add(_bundled.spec.name, _bundled)


def make_bundled(name: str, work: Path) -> None:
    """Train one model as `robustdml train` does, and put its weights and its entry into the zoo."""
    plan = BUNDLED[name]
    command = f"python examples/make_bundled.py {name}"
    spec = plan.spec.model_copy(update={"notes": f"{_told(plan)}; made by: {command}"})
    task = load_task("glyphs", split="train")
    print(f"{name}: {plan.recipe.describe()}")
    made, result = make(Training(spec, plan.recipe, plan.settings, task, command=command), work / name)
    print(f"{name}: epoch {result.epoch} after {result.seconds:.0f} s")
    stored = store(made, result.weights, ZOO / "weights" / f"{name}.safetensors", ZOO)
    known = {old.name: _relative(old) for old in (read_toml(FILE) if FILE.exists() else [])}
    known[name] = stored
    write_zoo(FILE, [known[one] for one in BUNDLED if one in known], COMMENT)
    module = load(stored, ZOO / stored.weights.file).module
    scores = evaluate(module, load_task("glyphs").limit(500), "fmn:steps=20", distance=spec.distance)
    print(scores.to_frame().query("attack == 'worst' and k == 1")[["budget", "clean", "adversarial"]])


def _told(plan: Bundled) -> str:
    facts = {**plan.recipe.describe(), **{"epochs": plan.settings.epochs, "rate": plan.settings.rate}}
    return ", ".join(f"{key} {value}" for key, value in facts.items())


def _relative(spec: ModelSpec) -> ModelSpec:
    """Undo what reading did to the path of the weights."""
    place = Path(spec.weights.file).relative_to(ZOO).as_posix()
    return spec.model_copy(update={"weights": spec.weights.model_copy(update={"file": place})})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(BUNDLED), metavar="NAME", help=", ".join(BUNDLED))
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bundled", help="folder of snapshots")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for chosen in arguments.names:
        make_bundled(chosen, arguments.work)
