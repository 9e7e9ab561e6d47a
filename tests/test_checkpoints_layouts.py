"""Every layout, on a small file with the true key names, loads to the network that wrote it."""

import argparse
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from torch import nn

from attacks.errors import UserError
from models import checkpoints, layouts
from models.adapt import adapt
from models.embedder import Embedder, Trunk, digest_of
from models.spec import InputSpec, ModelSpec

timm = pytest.importorskip("timm")

DIM = 6


def spec(head="linear", dim=DIM):
    return ModelSpec(name="mini", arch="seed-resnet50", dim=dim, head=head, l2norm=True)


def mini(seed, head="linear", dim=DIM, channels=(8, 8, 16, 16)):
    """A ResNet of timm's and torchvision's names, small enough to write a hundred times."""
    from timm.models.resnet import BasicBlock, ResNet

    torch.manual_seed(seed)
    trunk = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=0, channels=channels)
    module = Embedder(spec(head, dim), Trunk(trunk, channels[-1], heads=("fc",)))
    for buffer in module.buffers():  # running statistics that differ from their initial values
        if buffer.is_floating_point() and buffer.ndim == 1:
            buffer.copy_(torch.rand(buffer.shape) + 0.5)
    return module.eval()


def parts(module):
    """(trunk tensors under the ResNet's own names, head tensors)."""
    state = module.state_dict()
    trunk = {k.removeprefix("trunk."): v for k, v in state.items() if k.startswith("trunk.")}
    head = {k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")}
    return trunk, head


def named(prefix, tensors):
    return {prefix + key: value for key, value in tensors.items()}


def roth_network(module, prefix=""):
    """pretrainedmodels' ResNet as `model`, its stages once more as `layer_blocks`."""
    trunk, head = parts(module)
    tensors = named(f"{prefix}model.", trunk) | named(f"{prefix}model.last_linear.", head)
    for key, value in trunk.items():
        if key.startswith("layer"):
            stage, rest = key.removeprefix("layer").split(".", 1)
            tensors[f"{prefix}layer_blocks.{int(stage) - 1}.{rest}"] = value
    return OrderedDict(tensors)


def lightning(state, **more):
    return {
        "epoch": 3,
        "global_step": 42,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": OrderedDict(state),
        "loops": {},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}],
        "lr_schedulers": [],
        **more,
    }


def bare(module):
    trunk, head = parts(module)
    return OrderedDict(trunk | named("fc.", head))


def junk(module):
    return {key: torch.zeros_like(value) for key, value in bare(module).items()}


def timm_file(module, *, key, prefix=""):
    other = {"state_dict": junk(module)} if key.endswith("ema") else {}
    return {
        "epoch": 1,
        "arch": "resnet10",
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "version": 2,
        "args": argparse.Namespace(model="resnet10", lr=0.1),
        **other,
        key: OrderedDict(named(prefix, bare(module))),
    }


def seed_file(module):
    return lightning(roth_network(module, "model."), hyper_parameters=argparse.Namespace(embedding_size=DIM))


def oml_file(module):
    trunk, head = parts(module)
    state = named("model.model.", trunk) | named("model.model.fc.", head)
    return lightning(state | {"criterion.weight": torch.ones(20, DIM)})


def robrank_file(module):
    trunk, head = parts(module)
    state = named("backbone.", trunk) | named("backbone.fc.", head)
    return lightning(state | {"lossfunc.beta": torch.tensor(1.2)})


def lightning_file(module):
    return lightning(named("net.", bare(module)) | {"loss_fn.W": torch.ones(4, 20)})


def roth_file(module):
    return {
        "state_dict": roth_network(module),
        "opt": argparse.Namespace(dataset="cub200", embed_dim=DIM, arch="resnet50"),
        "progress": {"train": {"Epochs": [0, 1]}},
        "aux": None,
    }


def robustness_file(module, mean=0.0, std=1.0):
    """make_and_restore_model's checkpoint: the network twice, a normaliser before each."""
    constants = {"new_mean": torch.full((3, 1, 1), mean), "new_std": torch.full((3, 1, 1), std)}
    state = named("module.normalizer.", constants) | named("module.model.", bare(module))
    state |= named("module.attacker.normalize.", constants) | named("module.attacker.model.", bare(module))
    return {"model": OrderedDict(state), "epoch": 90, "schedule": {"step_size": 30}, "nat_prec1": 60.1}


def normalised_file(module):
    layer = {"mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}
    return OrderedDict(named("normalize.", layer) | named("model.", bare(module)))


# layout, what is inside the file
FILES = {
    "robustdml": ("robustdml", lambda m: dict(m.state_dict())),
    "bare": ("state_dict", bare),
    "bare, last_linear": (
        "state_dict",
        lambda m: parts(m)[0] | named("last_linear.", parts(m)[1]),
    ),
    "bare, DataParallel": ("state_dict", lambda m: named("module.", bare(m))),
    "bare, compiled": ("state_dict", lambda m: named("module._orig_mod.", bare(m))),
    **{
        f"timm {key}{prefix and ' '}{prefix}": (
            "timm",
            lambda m, key=key, prefix=prefix: timm_file(m, key=key, prefix=prefix),
        )
        for key in ("state_dict_ema", "model_ema", "state_dict", "model")
        for prefix in ("", "module.", "_orig_mod.")
    },
    "seed": ("seed", seed_file),
    "seed, bare": ("seed", lambda m: roth_network(m)),
    "seed, wrapped twice": ("seed", lambda m: named("_orig_mod.module.", roth_network(m))),
    "seed, wrapped the other way": ("seed", lambda m: named("module._orig_mod.", roth_network(m))),
    "roth": ("roth", roth_file),
    "oml": ("oml", oml_file),
    "robrank": ("robrank", robrank_file),
    "lightning": ("lightning", lightning_file),
    "robustness": ("robustness", robustness_file),
    "normalised": ("normalised", normalised_file),
    "normalised, DataParallel": ("normalised", lambda m: named("module.", normalised_file(m))),
}


@pytest.mark.parametrize("case", FILES)
def test_layout_round_trip(case, tmp_path):
    layout, content = FILES[case]
    source, target = mini(1), mini(2)
    torch.save(content(source), tmp_path / "file.pth")
    checkpoint = checkpoints.read(tmp_path / "file.pth")
    assert checkpoint.layout == layout
    x = torch.rand(3, 3, 32, 32)
    assert not torch.equal(source(x), target(x))
    adapt(checkpoint, target, "mini")
    assert torch.equal(source(x), target(x))
    assert digest_of(spec(), source) == digest_of(spec(), target)


def test_every_layout_of_the_table_has_a_file():
    other = {"pml-pair", "visualphishnet", "clip"}  # tested below
    assert {row.name for row in layouts.LAYOUTS} == {name for name, _ in FILES.values()} | other


@pytest.mark.parametrize("named_as", ["trunk_best7.pth", "embedder_best7.pth", "."])
@pytest.mark.parametrize("embedder", ["", "net.0.", "module.linear."])
def test_pml_pair_given_either_file_or_the_folder(tmp_path, named_as, embedder):
    source, target = mini(1), mini(2)
    trunk, head = parts(source)
    torch.save(OrderedDict(trunk), tmp_path / "trunk_best7.pth")
    torch.save(OrderedDict(named(embedder, head)), tmp_path / "embedder_best7.pth")
    torch.save(OrderedDict(junk(source)), tmp_path / "trunk_9.pth")
    torch.save(OrderedDict(named("", head)), tmp_path / "embedder_9.pth")
    checkpoint = checkpoints.read(tmp_path / named_as)
    assert checkpoint.layout == "pml-pair"
    adapt(checkpoint, target, "mini")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(source(x), target(x))


def test_pml_embedder_of_two_layers_is_refused(tmp_path):
    trunk, _ = parts(mini(1))
    torch.save(trunk, tmp_path / "trunk_1.pth")
    mlp = {f"net.{i}.weight": torch.rand(4, 4) for i in (0, 2)}
    torch.save(mlp, tmp_path / "embedder_1.pth")
    with pytest.raises(UserError, match="2 linear layers"):
        checkpoints.read(tmp_path)


def test_pml_folder_without_a_pair(tmp_path):
    with pytest.raises(UserError, match="no trunk_"):
        checkpoints.read(tmp_path)


@pytest.mark.parametrize("prefix", ["", "model.", "model.model."])
def test_visualphishnet_layers(tmp_path, prefix):
    from models.registry import build

    card = ModelSpec(
        name="vp",
        arch="visualphishnet",
        dim=8,
        head="none",
        distance="euclidean",
        options={"trunk": "small"},
        input=InputSpec(channels=1),
    )
    source, target = build(card).eval(), build(card).eval()
    trunk, _ = parts(source)
    assert set(trunk) >= {"layers.0.weight", "layers.0.bias", "layers.2.weight"}
    torch.save(named(prefix, trunk), tmp_path / "vpnet_natural.pt")
    checkpoint = checkpoints.read(tmp_path / "vpnet_natural.pt")
    assert checkpoint.layout == "visualphishnet"
    adapt(checkpoint, target, "visualphishnet")
    x = torch.rand(2, 1, 32, 32)
    assert torch.equal(source(x), target(x))


def test_transformer_of_oml_under_dino_names(tmp_path):
    from timm.models.vision_transformer import VisionTransformer

    def build(seed):
        torch.manual_seed(seed)
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
        trunk = VisionTransformer(num_classes=0, **sizes)
        return Embedder(spec("none", 12), Trunk(trunk, 12, heads=("head",))).eval()

    source, target = build(1), build(2)
    trunk, _ = parts(source)
    state = named("model.model.", trunk) | {"criterion.weight": torch.ones(5, 12)}
    torch.save(lightning(state), tmp_path / "vits16_cub.ckpt")
    checkpoint = checkpoints.read(tmp_path / "vits16_cub.ckpt")
    assert checkpoint.layout == "oml"
    notes = adapt(checkpoint, target, "vit")
    assert "criterion.weight" in notes[0]
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(source(x), target(x))


def vit(pool="token", **sizes):
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 12, "depth": 2, "num_heads": 2} | sizes
    return VisionTransformer(global_pool=pool, **sizes)


def test_published_weights_of_oml_hold_the_extractor_alone(tmp_path):
    """OML strips one prefix that all keys share, so its published files have no criterion."""
    source, target = (Embedder(spec("none", 12), Trunk(vit(num_classes=0), 12)).eval() for _ in range(2))
    state = named("model.model.", parts(source)[0])
    torch.save(lightning(state), tmp_path / "vits16_cars.ckpt")
    adapt(checkpoints.read(tmp_path / "vits16_cars.ckpt"), target, "vit")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(source(x), target(x))


def clip_tower(width=12, out=6, depth=2):
    """The keys of CLIP's image tower (and one of its text tower), with random numbers."""
    shapes = {"class_embedding": (width,), "positional_embedding": (5, width), "proj": (width, out)}
    shapes |= {"conv1.weight": (width, 3, 16, 16)}
    norms = ["ln_pre", "ln_post"]
    for i in range(depth):
        block = f"transformer.resblocks.{i}."
        norms += [f"{block}ln_1", f"{block}ln_2"]
        shapes |= {f"{block}attn.in_proj_weight": (3 * width, width)}
        shapes |= {f"{block}attn.in_proj_bias": (3 * width,)}
        for name, (rows, columns) in {
            "attn.out_proj": (width, width),
            "mlp.c_fc": (4 * width, width),
            "mlp.c_proj": (width, 4 * width),
        }.items():
            shapes |= {f"{block}{name}.weight": (rows, columns), f"{block}{name}.bias": (rows,)}
    shapes |= {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}
    tensors = {f"visual.{name}": torch.randn(shape) for name, shape in shapes.items()}
    return tensors | {"token_embedding.weight": torch.randn(7, width), "logit_scale": torch.tensor(4.6)}


def test_clip_loads_as_timm_loads_it(tmp_path):
    from timm.models.vision_transformer import checkpoint_filter_fn

    content = clip_tower()
    theirs = vit(num_classes=6, pre_norm=True)
    theirs.load_state_dict(checkpoint_filter_fn(dict(content), theirs))
    target = Embedder(spec(), Trunk(vit(num_classes=0, pre_norm=True), 12, heads=("head",))).eval()
    safetensors.torch.save_file(content, tmp_path / "open_clip_model.safetensors")
    checkpoint = checkpoints.read(tmp_path / "open_clip_model.safetensors")
    assert checkpoint.layout == "clip"
    assert adapt(checkpoint, target, "vit") == ("the head head has no bias: taken as zero",)
    x = torch.rand(2, 3, 32, 32)
    expected = nn.functional.normalize(theirs.eval()(x), dim=1)
    assert torch.allclose(target(x), expected, atol=1e-6)


def test_a_normalisation_other_than_the_cards_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"normalises with mean 0\.5,0\.5,0\.5; pass --mean 0\.5,0\.5"):
        adapt_file(robustness_file(mini(1), mean=0.5), mini(2), tmp_path)
    with pytest.raises(UserError, match=r"with std 0\.25,0\.25,0\.25; pass --std"):
        adapt_file(robustness_file(mini(1), std=0.25), mini(2), tmp_path, allow_partial=True)


def test_a_network_that_differs_from_its_attackers_copy_is_refused(tmp_path):
    content = robustness_file(mini(1))
    content["model"]["module.attacker.model.fc.bias"] = torch.ones(DIM)
    with pytest.raises(UserError, match=r"model\.fc\.bias and attacker\.model\.fc\.bias"):
        adapt_file(content, mini(2), tmp_path)


def test_a_layout_can_be_asked_for_and_must_exist(tmp_path):
    torch.save(bare(mini(1)), tmp_path / "a.pth")
    assert checkpoints.read(tmp_path / "a.pth", "state_dict").layout == "state_dict"
    with pytest.raises(UserError, match="unknown layout 'bear'"):
        checkpoints.read(tmp_path / "a.pth", "bear")
    with pytest.raises(UserError, match="layout seed"):
        checkpoints.read(tmp_path / "a.pth", "seed")


def test_an_alias_that_differs_is_refused(tmp_path):
    content = roth_network(mini(1))
    content["layer_blocks.0.0.conv1.weight"] = content["layer_blocks.0.0.conv1.weight"] + 1
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth: layer_blocks\.0\.0\.conv1\.weight and model"):
        checkpoints.read(tmp_path / "a.pth")


def test_safetensors_and_torch_of_one_network_have_one_digest(tmp_path):
    source = mini(1)
    safetensors.torch.save_file(bare(source), tmp_path / "a.safetensors")
    torch.save({"state_dict": roth_network(source), "opt": argparse.Namespace()}, tmp_path / "b.pt")
    torch.save(bare(source), tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    digests = set()
    for name in ("a.safetensors", "b.pt", "c.pt"):
        target = mini(2)
        adapt(checkpoints.read(tmp_path / name), target, "mini")
        digests.add(digest_of(spec(), target))
    assert digests == {digest_of(spec(), source)}


@pytest.mark.parametrize("key", ["trunk.layer4.0.bn2.running_var", "head.bias", "trunk.conv1.weight"])
def test_one_changed_weight_changes_the_digest(key):
    module = mini(1)
    before = digest_of(spec(), module)
    module.state_dict()[key].view(-1)[-1] += 1e-6
    assert digest_of(spec(), module) != before


def test_the_digest_covers_what_decides_and_nothing_else():
    module, card = mini(1), spec()
    before = digest_of(card, module)
    renamed = card.model_copy(update={"name": "other", "paper": "x", "training": "panum2021"})
    assert digest_of(renamed, module) == before
    for change in (
        {"distance": "euclidean"},
        {"l2norm": False},
        {"input": InputSpec(bgr=True)},
        {"input": InputSpec(size=224)},
    ):
        assert digest_of(card.model_copy(update=change), module) != before
    module.trunk.bn1.num_batches_tracked += 5
    assert digest_of(card, module) == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_arrives_as_float32(tmp_path, dtype):
    content = {k: v.to(dtype) if v.is_floating_point() else v for k, v in bare(mini(1)).items()}
    torch.save(content, tmp_path / "a.pth")
    tensors = checkpoints.read(tmp_path / "a.pth").tensors
    assert {v.dtype for v in tensors.values()} == {torch.float32, torch.int64}
    assert torch.equal(tensors["fc.weight"], content["fc.weight"].float())


def adapt_file(content, target, tmp_path, **options):
    torch.save(content, tmp_path / "a.pth")
    return adapt(checkpoints.read(tmp_path / "a.pth"), target, "timm/resnet10", **options)


def test_wrong_width_says_which_to_pass(tmp_path):
    with pytest.raises(UserError, match=r"head has 9 outputs, not 6; pass --dim 9"):
        adapt_file(bare(mini(1, dim=9)), mini(2), tmp_path)


def test_wrong_width_of_a_network_that_ends_in_itself(tmp_path):
    content = parts(mini(1, "none", 32, (8, 8, 16, 32)))[0]
    with pytest.raises(UserError, match="layer4"):
        adapt_file(content, mini(2, "none", 16), tmp_path)


def test_wrong_width_of_visualphishnet(tmp_path):
    from models.registry import build

    def net(dim):
        options = {"trunk": "small"}
        return build(ModelSpec(name="v", arch="visualphishnet", dim=dim, head="none", options=options))

    with pytest.raises(UserError, match="last layer has 9 outputs, not 8; pass --dim 9"):
        adapt_file(parts(net(9))[0], net(8), tmp_path)


def test_no_head_in_the_file(tmp_path):
    with pytest.raises(UserError, match="no linear head; pass --head none --dim 16"):
        adapt_file(parts(mini(1))[0], mini(2), tmp_path)


def test_a_head_that_would_be_lost_is_refused_and_a_classifier_is_dropped(tmp_path):
    with pytest.raises(UserError, match="head has 16 outputs, which is --dim; pass --head linear"):
        adapt_file(bare(mini(1, dim=16)), mini(2, "none", 16), tmp_path)
    notes = adapt_file(bare(mini(1, dim=1000)), mini(2, "none", 16), tmp_path)
    assert notes == ("left out the last layer fc (1000 outputs)",)


def test_a_head_without_bias_counts_as_zero_bias(tmp_path):
    source = mini(1)
    nn.init.zeros_(source.head.bias)
    content = bare(source)
    del content["fc.bias"]
    target = mini(2)
    assert "no bias" in adapt_file(content, target, tmp_path)[0]
    assert torch.equal(target.head.bias, torch.zeros(DIM))


def test_another_architecture_is_named(tmp_path):
    content = {f"blocks.{i}.attn.qkv.weight": torch.rand(6, 2) for i in range(4)}
    with pytest.raises(UserError, match=r"look like a vision transformer\) do not fit timm/resnet"):
        adapt_file(content, mini(2), tmp_path)
    with pytest.raises(UserError, match="check --arch"):
        adapt_file(content, mini(2), tmp_path, allow_partial=True)


def test_missing_unexpected_misshapen_are_listed_and_refused_unless_partial(tmp_path):
    content = bare(mini(1))
    del content["bn1.weight"]
    content["extra.weight"] = torch.rand(2)
    content["layer1.0.bn1.bias"] = torch.rand(9)
    target = mini(2)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(UserError) as error:
        adapt_file(content, target, tmp_path)
    for said in (
        "1 missing: trunk.bn1.weight",
        "1 unexpected: extra.weight",
        "1 misshapen: trunk.layer1.0.bn1.bias (file 9, model 8)",
        "--allow-partial",
    ):
        assert said in str(error.value)
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())
    (note,) = adapt_file(content, target, tmp_path, allow_partial=True)
    assert note.startswith("loaded in part: 1 missing")
    assert torch.equal(target.trunk.conv1.weight, content["conv1.weight"])
    assert torch.equal(target.trunk.bn1.weight, before["trunk.bn1.weight"])


def test_long_lists_are_shortened(tmp_path):
    content = bare(mini(1)) | {f"{'x' * 100}{i}": torch.rand(1) for i in range(50)}
    with pytest.raises(UserError, match=r"50 unexpected: .* and 46 more") as error:
        adapt_file(content, mini(2), tmp_path)
    assert len(str(error.value)) < 500


def test_counters_of_batchnorm_may_be_missing(tmp_path):
    content = {k: v for k, v in bare(mini(1)).items() if "num_batches" not in k}
    assert adapt_file(content, mini(2), tmp_path) == ()
