"""What a model that is about to be trained is, from words on the command line."""

import re
from dataclasses import dataclass

from pydantic import ValidationError

from attacks.errors import UserError
from benchmark.submission import arch_option, architecture, per_channel, require_plain
from benchmark.tasks import RetrievalTask
from models.families.timm_backbone import known_weights
from models.recipes import Recipe
from models.spec import Answer, InputSpec, ModelSpec, explain
from models.starts import Start

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Words:
    """The options of a network and of its row, as typed; "" and None where left out."""

    backbone: str = "convnet"
    dim: int = 128
    head: str | None = None
    option: tuple[str, ...] = ()
    mean: str = ""
    std: str = ""
    channels: int | None = None
    name: str = ""
    title: str = ""
    sibling: str | None = None
    baseline: bool = False
    authors: str = ""
    code_url: str = ""
    contact: str = ""


def describe(
    words: Words, recipe: Recipe, distance: str, task: RetrievalTask, start: Start, shared: int | None = None
) -> ModelSpec:
    """The specification of the model; UserError names the option that cannot be.

    `shared`: how many test classes of a user's own data train as well (`benchmark.sources`).

    Left out, the channels are the data set's (three for weights that were trained on photos), the
    normalisation is that of pretrained weights, and a network with an ending of its own gets no head.
    """
    arch = architecture(words.backbone)
    name = words.name or _name(task.name, recipe.name, loss_of(recipe))
    require_plain(name)
    ready = start.pretrained and not start.checkpoint
    pretraining, mean, std = known_weights(arch) if ready else ("", (), ())
    budget = recipe.budget
    try:
        return ModelSpec(
            name=name,
            title=words.title,
            arch=arch,
            options=dict(arch_option(text) for text in words.option),
            dim=words.dim,
            distance=distance,  # type: ignore[arg-type]
            head=words.head or ("none" if arch == "visualphishnet" else "linear"),  # type: ignore[arg-type]
            input=InputSpec(
                channels=words.channels or (3 if ready or arch == "seed-resnet50" else task.shape[0]),  # type: ignore[arg-type]
                mean=per_channel("mean", words.mean) or mean,
                std=per_channel("std", words.std) or std,
            ),
            training=recipe.name,
            loss=loss_of(recipe),
            trained_on=task.name,
            pretraining=pretraining,
            saw_test_classes=_saw(start, task, shared),
            defence_eps=budget.radius if budget else "",
            sibling=words.sibling,
            baseline=words.baseline,
            authors=words.authors,
            code_url=words.code_url,
            contact=words.contact,
        )
    except ValidationError as error:
        raise UserError(explain(error, flags=True)) from error


def _saw(start: Start, task: RetrievalTask, shared: int | None) -> Answer | dict[str, Answer]:
    """Whether test classes were seen; of a user's own images nothing is known but their own test half."""
    answer: Answer = "no" if start.random else "unknown"
    if shared is None:
        return answer
    return {task.name: "yes" if shared else answer}


def loss_of(recipe: Recipe) -> str:
    """The name of its loss; "" for a recipe that has but one."""
    return str(getattr(recipe, "loss", ""))


def _name(*parts: str) -> str:
    """A name out of what there is, in letters that a row's name may have."""
    joined = "-".join(part for part in parts if part)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", joined).lstrip("._-")
