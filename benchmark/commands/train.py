"""`robustdml train`: a recipe and a data set go in, weights with their card come out."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from benchmark.commands import options
from benchmark.commands.train_told import command, submission, tell_end, tell_limits, tell_plan

if TYPE_CHECKING:
    from models.training_cost import Outlook

about_loss = partial(Option, rich_help_panel="The recipe")
about_network = partial(Option, rich_help_panel="The network")
about_loop = partial(Option, rich_help_panel="The training")
about_row = partial(Option, rich_help_panel="Where it comes from (shown on the board)")


def train(
    context: typer.Context,
    recipe: Annotated[
        str, about_loss(help="natural, panum2021, est, act, hm, ...; a wrong name lists them.")
    ] = "natural",
    loss: Annotated[str | None, about_loss(help="What the recipe takes: triplet, contrastive, ...")] = None,
    eps: Annotated[str | None, about_loss(help="Radius trained against: 8/255, 0.1.")] = None,
    norm: Annotated[str | None, about_loss(help="linf or l2.")] = None,
    role: Annotated[str | None, about_loss(help="Who is perturbed: positive, negative, anchor.")] = None,
    attack_steps: Annotated[
        int | None, about_loss("--steps", min=1, help="Steps of the inner adversary.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        about_loss("--set", help="KEY=VALUE, any parameter of recipe or training; repeat."),
    ] = None,
    dataset: options.Dataset = "glyphs",
    backbone: Annotated[
        str, about_network(help="A timm model (timm/resnet50), convnet, visualphishnet or seed-resnet50.")
    ] = "convnet",
    dim: Annotated[int, about_network(min=1, help="D of the (B, D) embedding.")] = 128,
    head: Annotated[
        str | None, about_network(help="linear, or none (pooled features). Default: what the network wants.")
    ] = None,
    distance: Annotated[
        str | None, about_network(help="cosine or euclidean. Default: what the recipe is written for.")
    ] = None,
    option: Annotated[
        list[str] | None, about_network(help="An option of the architecture, NAME=VALUE; repeat.")
    ] = None,
    mean: Annotated[str, about_network(help='Per channel, "0.5,0.5,0.5", or "imagenet".')] = "",
    std: Annotated[str, about_network(help='Per channel, "0.25,0.25,0.25", or "imagenet".')] = "",
    channels: Annotated[
        int | None, about_network(min=1, max=3, help="Channels the network wants (1 or 3).")
    ] = None,
    pretrained: Annotated[
        bool, about_network("--pretrained", help="Start from timm's pretrained weights (downloaded).")
    ] = False,
    init: Annotated[Path | None, about_network(help="Start from the weights of this checkpoint.")] = None,
    epochs: Annotated[int | None, about_loop(min=1, help="Times through the images. Default: 30.")] = None,
    batch: Annotated[int | None, about_loop(min=4, help="Images of a step. Default: 112.")] = None,
    per_class: Annotated[
        int | None, about_loop(min=2, help="Images of a class in a step. Default: 2.")
    ] = None,
    rate: Annotated[float | None, about_loop(help="Highest learning rate. Default: 0.001.")] = None,
    ema: Annotated[
        float | None, about_loop(help="Decay per step of averaged weights. Default: 0, none.")
    ] = None,
    batchnorm: Annotated[str | None, about_loop(help="live or frozen statistics. Default: live.")] = None,
    held_out: Annotated[
        float | None, about_loop(help="Share of the training classes that validate. Default: 0.15.")
    ] = None,
    augment: Annotated[str, about_loop(help="none, shift, flip-crop, zoom or cars.")] = "none",
    amp: Annotated[
        bool, about_loop("--amp/--no-amp", help="bfloat16 (1.5 to 2 times as fast where the machine has it).")
    ] = True,
    seed: options.Seed = 0,
    threads: Annotated[int | None, about_loop(min=1, help="CPU threads. Default: all cores.")] = None,
    device: options.Device = None,
    side: options.Side = 224,
    data_root: options.DataRoot = None,
    out: Annotated[Path | None, Option(help="Folder of the results. Default: trained/NAME.")] = None,
    name: Annotated[str, Option(help="The model's name. Default: DATASET-RECIPE-LOSS.")] = "",
    title: Annotated[str, Option(help="What tables call it.")] = "",
    sibling: Annotated[
        str | None, Option(help="The model that differs by the defence alone, for the gain.")
    ] = None,
    baseline: Annotated[
        bool, Option("--baseline", help="It is the prior robust model that others are compared with.")
    ] = False,
    authors: Annotated[str, about_row(help="Who made it.")] = "",
    code_url: Annotated[str, about_row(help="Where its code is, https://...")] = "",
    contact: Annotated[str, about_row(help="How to reach you: an address or a page.")] = "",
    plan_only: Annotated[bool, Option("--plan", help="Say what it takes and stop.")] = False,
) -> int:
    """Train a model and write weights (safetensors) with a card that `run` and `submit` read.

    Classes held out of the training half choose the epoch; test classes are never seen. Stopped by
    anything, the same command goes on from the last epoch, on a CPU to the same weights.

    Example: robustdml train --recipe panum2021 --loss triplet --dataset cub200 --backbone timm/resnet50
    --eps 8/255 --pretrained --augment zoom
    """
    import torch

    from benchmark.choices import choose, fields_of
    from benchmark.commands.show import note, progress
    from benchmark.handing_in import DEFAULT
    from benchmark.networks import Words, describe
    from benchmark.scoring import Settings as Compute
    from benchmark.sources import doubt_sibling, find_training, shared_classes
    from benchmark.training import Training, make
    from models.augment import AUGMENTATIONS
    from models.recipes import RECIPES
    from models.starts import Start

    AUGMENTATIONS[augment]
    # A recipe without a distance of its own is defined on vectors as they are.
    knows = "distance" in fields_of(RECIPES[recipe])
    parameters = {"loss": loss, "eps": eps, "norm": norm, "role": role, "steps": attack_steps}
    loop: dict[str, Any] = {"epochs": epochs, "batch": batch, "per_class": per_class, "rate": rate}
    loop |= {"ema": ema, "batchnorm": batchnorm, "held_out": held_out, "amp": amp, "seed": seed}
    chosen, settings = choose(
        recipe, parameters | ({"distance": distance} if knows else {}), loop, set_ or []
    )
    if threads:
        torch.set_num_threads(threads)
    place = str(Compute(device).pick_device())
    with progress() as tick:
        task = find_training(dataset, data_root, side, tick)
    network = (backbone, dim, head, tuple(option or ()), mean, std, channels)
    words = Words(*network, name, title, sibling, baseline, authors, code_url, contact)
    start = Start(init, pretrained)
    shared = shared_classes(dataset, side, task)
    spec = describe(words, chosen, getattr(chosen, "distance", distance or "euclidean"), task, start, shared)
    folder = out or Path("trained") / spec.name
    if doubt := doubt_sibling(spec.sibling, DEFAULT, folder.parent):
        note(doubt)
    training = Training(spec, chosen, settings, task, augment, start, command(context, spec.name))

    def before(outlook: "Outlook") -> None:
        tell_plan(training, outlook, folder)
        tell_limits(spec, dataset, shared)
        if plan_only:
            raise typer.Exit

    stored, result = make(training, folder, device=place, before=before, note=note)
    tell_end(stored, result, submission(folder, dataset, side, data_root, shared))
    return 0
