"""`robustdml submit`: a checkpoint goes in, a row of the board comes out."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Context, Option

from benchmark import SHARD
from benchmark.commands import contained as containment
from benchmark.commands import options

about_model = partial(Option, rich_help_panel="The model")
provenance = partial(Option, rich_help_panel="Where it comes from (shown on the board)")


def submit(
    context: Context,
    checkpoint: Annotated[
        Path | None,
        Argument(
            help="safetensors or torch weights; a folder with trunk_*.pth and embedder_*.pth; a .pt2; "
            "or the card.toml of `robustdml train`."
        ),
    ] = None,
    name: Annotated[str, Option(help="The row's name.")] = "",
    arch: Annotated[
        str,
        about_model(help="A timm model (resnet50), convnet, visualphishnet or seed-resnet50."),
    ] = "",
    dim: Annotated[int | None, about_model(min=1, help="D of the (B, D) embedding.")] = None,
    head: Annotated[str, about_model(help="linear, or none (pooled features).")] = "linear",
    distance: Annotated[str, about_model(help="cosine or euclidean.")] = "cosine",
    l2norm: Annotated[bool, about_model(help="Normalise the embedding.")] = False,
    mean: Annotated[
        str,
        about_model(help='Per channel, "0.485,0.456,0.406", or "imagenet". Default: none.'),
    ] = "",
    std: Annotated[str, about_model(help='Per channel, "0.229,0.224,0.225", or "imagenet".')] = "",
    bgr: Annotated[bool, about_model("--bgr", help="The network wants BGR.")] = False,
    size: Annotated[
        int | None,
        about_model(min=8, help="The side the network wants. Default: the data set's."),
    ] = None,
    interpolation: Annotated[str, about_model(help="bilinear, bicubic or nearest.")] = "bilinear",
    channels: Annotated[
        int | None,
        about_model(min=1, max=3, help="Channels the network wants (1 or 3)."),
    ] = None,
    option: Annotated[
        list[str] | None,
        about_model(help="An option of the architecture, NAME=VALUE."),
    ] = None,
    layout: Annotated[str, about_model(help="The checkpoint's layout, if it is not recognised.")] = "",
    allow_partial: Annotated[
        bool,
        about_model("--allow-partial", help="Accept missing or unexpected weights."),
    ] = False,
    trust_code: Annotated[
        bool,
        about_model(
            "--trust-code",
            help="Run code from the submission, in a contained process.",
        ),
    ] = False,
    code: Annotated[str, about_model(help="FILE.py:build (needs --trust-code).")] = "",
    expect_clean: Annotated[
        float | None,
        about_model(
            min=0,
            max=1,
            help="Your clean R@1; refuse if ours is off by more than 0.01.",
        ),
    ] = None,
    title: Annotated[str, provenance()] = "",
    training: Annotated[str, provenance(help="natural, panum2021, ...")] = "natural",
    loss: Annotated[str, provenance()] = "",
    trained_on: Annotated[str, provenance(help="Data set.")] = "",
    pretraining: Annotated[str, provenance(help="The data it saw before that.")] = "",
    extra_data: Annotated[
        str, provenance(help="Data used beside --trained-on, for the metric or for the defence.")
    ] = "",
    saw_test_classes: Annotated[
        str, provenance(help="Whether it may have seen the test classes: yes, maybe, no or unknown.")
    ] = "unknown",
    defence_eps: Annotated[str, provenance(help="Radius trained against.")] = "",
    sibling: Annotated[
        str | None,
        provenance(help="The model that differs by the defence alone (for the gain)."),
    ] = None,
    authors: Annotated[str, provenance(help="Who made it.")] = "",
    paper: Annotated[str, provenance()] = "",
    code_url: Annotated[str, provenance(help="Where its code is, https://...")] = "",
    contact: Annotated[str, provenance(help="How to reach you: an address or a page.")] = "",
    licence: Annotated[str, provenance()] = "",
    notes: Annotated[str, provenance()] = "",
    dataset: options.Dataset = "glyphs",
    suite: Annotated[str, Option(help="Only `standard` is ranked.")] = "standard",
    norm: options.Norms = None,
    results: options.Results = Path("results"),
    data_root: options.DataRoot = None,
    side: options.Side = 224,
    limit_queries: options.LimitQueries = None,
    seed: options.Seed = 0,
    shard_size: options.ShardSize = SHARD,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    amp: options.Amp = False,
    fold: options.Fold = False,
    compile_: options.Compile = False,
    checks: options.Checks = None,
    eot: options.Eot = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Try every step on a few queries in a minute; keep nothing.")
    ] = False,
    contained: options.Contained = True,
    max_memory: options.MaxMemory = None,
    max_seconds: options.MaxSeconds = None,
) -> int:
    """Score a checkpoint and say where it would rank.

    Example: robustdml submit my.safetensors --name mine --arch resnet50 --dim 128 --mean imagenet
    --std imagenet --dataset cars196
    """
    options.check_code(code, trust_code)
    if contained or trust_code:
        places = [] if dry_run else [results]
        fetch = partial(containment.fetch, checkpoint)
        again = containment.run_again(context, places, max_memory, max_seconds, fetch)
        if again is not None:
            return again
    from benchmark.commands.show import note
    from benchmark.sources import doubt_sibling
    from benchmark.submission import Submission, make_spec, score, try_out
    from models.spec import is_card

    task_options = (dataset, data_root, side)
    spec = make_spec(
        task_options,
        checkpoint,
        name=name,
        arch=arch,
        dim=dim,
        head=head,
        distance=distance,
        l2norm=l2norm,
        mean=mean,
        std=std,
        bgr=bgr,
        size=size,
        interpolation=interpolation,
        channels=channels,
        option=option or [],
        layout=layout,
        code=code,
        title=title,
        training=training,
        loss=loss,
        trained_on=trained_on,
        pretraining=pretraining,
        extra_data=extra_data,
        saw_test_classes=saw_test_classes,
        defence_eps=defence_eps,
        sibling=sibling,
        authors=authors,
        paper=paper,
        code_url=code_url,
        contact=contact,
        licence=licence,
        notes=notes,
    )
    # Cards that `train` made lie in folders side by side.
    trained = checkpoint.absolute().parent.parent if is_card(checkpoint) else Path("trained")
    if doubt := doubt_sibling(spec.sibling, results, trained):
        note(doubt)
    weights = None if is_card(checkpoint) else checkpoint  # a card names its own, with their sha256
    submission = Submission(spec, weights, code, allow_partial, trust_code, expect_clean)
    settings = options.settings(device, batch_size, amp, fold, compile_)
    how: dict[str, Any] = {
        "suite": suite,
        "norms": norm or [],
        "limit_queries": limit_queries,
        "seed": seed,
        "settings": settings,
        "checks": options.checks_level(checks),
        "eot": eot or 1,
    }
    if dry_run:
        return try_out(submission, task_options, **how)
    return score(submission, task_options, results=results, shard_size=shard_size, **how)
