"""Every architecture: shape, range, gradient, independence of the batch; preprocessing exactly."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.nn import functional as F

from attacks.errors import UserError
from models.families import FAMILIES
from models.preprocess import LUMA, Preprocess
from models.registry import build
from models.spec import InputSpec, ModelSpec

GRAY = InputSpec(channels=1)
CARDS = {
    "convnet": (ModelSpec(name="a", arch="convnet", dim=64, input=GRAY), (1, 32, 32)),
    "convnet 28": (ModelSpec(name="a", arch="convnet", dim=8, input=GRAY), (1, 28, 28)),
    "small visualphishnet": (
        ModelSpec(
            name="b",
            arch="visualphishnet",
            dim=32,
            head="none",
            distance="euclidean",
            options={"trunk": "small"},
            input=GRAY,
        ),
        (1, 32, 32),
    ),
    "visualphishnet": (
        ModelSpec(name="c", arch="visualphishnet", dim=16, head="none", distance="euclidean"),
        (3, 96, 96),
    ),
    "seed": (ModelSpec(name="d", arch="seed-resnet50", dim=128, l2norm=True), (3, 64, 64)),
    "timm": (
        ModelSpec(
            name="e",
            arch="timm/resnet10t",
            dim=16,
            l2norm=True,
            input=InputSpec(size=48, mean=(0.5,) * 3, std=(0.2,) * 3, bgr=True),
        ),
        (3, 64, 64),
    ),
    "timm without head": (
        ModelSpec(name="f", arch="timm/mobilenetv3_small_050", dim=1024, head="none"),
        (3, 64, 64),
    ),
    "timm gray": (ModelSpec(name="g", arch="timm/resnet10t", dim=4, input=GRAY), (1, 64, 64)),
}


@pytest.mark.parametrize("case", CARDS)
def test_the_contract_of_an_embedder(case):
    card, shape = CARDS[case]
    torch.manual_seed(0)
    module = build(card).eval()
    x = torch.rand(3, *shape, requires_grad=True)
    z = module(x)
    assert z.shape == (3, card.dim) and z.dtype == torch.float32 and torch.isfinite(z).all()
    (gradient,) = torch.autograd.grad(z[0].square().sum(), x)
    assert gradient[0].abs().sum() > 0 and not gradient[1:].any()
    alone = torch.cat([module(image[None]) for image in x])
    assert torch.allclose(alone, z, rtol=1e-4, atol=1e-5)
    if card.l2norm:
        assert torch.allclose(z.norm(dim=1), torch.ones(3), atol=1e-5)


def test_every_family_is_covered():
    archs = {"timm/<name>" if c.arch.startswith("timm/") else c.arch for c, _ in CARDS.values()}
    assert archs == set(FAMILIES)


def test_bundled_sizes_stay_small():
    for case in ("convnet", "small visualphishnet"):
        assert sum(p.numel() for p in build(CARDS[case][0]).parameters()) <= 250_000


def test_half_precision_inside_gives_float32_outside():
    card, shape = CARDS["convnet"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert build(card).eval()(torch.rand(2, *shape)).dtype == torch.float32


def test_a_zero_vector_stays_zero_and_its_gradient_finite():
    card = CARDS["convnet"][0].model_copy(update={"l2norm": True})
    module = build(card).eval()
    torch.nn.init.zeros_(module.head.weight)
    torch.nn.init.zeros_(module.head.bias)
    x = torch.rand(2, 1, 32, 32, requires_grad=True)
    z = module(x)
    assert not z.any()
    (gradient,) = torch.autograd.grad(z.sum(), x)
    assert torch.isfinite(gradient).all()


def test_visualphishnet_is_vgg16_with_the_released_numbering():
    with torch.device("meta"):
        ours = build(ModelSpec(name="v", arch="visualphishnet", dim=512, head="none")).trunk
        vgg = torchvision.models.vgg16(init_weights=False).features
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    expected = {f"layers.{key}": value.shape for key, value in vgg.state_dict().items()}
    last = {"layers.31.weight": (512, 512, 3, 3), "layers.31.bias": (512,)}
    assert shapes == expected | last
    kinds = [type(layer) for layer in ours.layers]
    assert kinds[: len(vgg)] == [type(layer) for layer in vgg]


def test_visualphishnet_ends_in_relu_and_a_mean():
    card = CARDS["small visualphishnet"][0]
    module = build(card).eval()
    x = torch.rand(2, 1, 32, 32)
    z = module(x)
    assert (z >= 0).all()
    features = module.trunk.layers[:-3](x)
    last = module.trunk.layers[-3]
    expected = F.conv2d(features, last.weight, last.bias).relu().mean(dim=(2, 3))
    assert torch.allclose(z, expected, atol=1e-6)


REFUSED = [
    ({"arch": "convent"}, "did you mean convnet"),
    ({"arch": "timm/resnet5"}, "did you mean .*resnet50"),
    ({"arch": "external"}, "--code"),
    ({"options": {"widht": 3}}, r"options\.widht"),
    ({"options": {"width": 3}}, r"options\.width: a whole number"),
    ({"options": {"width": True}}, r"options\.width"),
    ({"head": "none", "dim": 5}, "pass --dim 128, or --head linear"),
    ({"arch": "visualphishnet"}, "head"),
    ({"arch": "visualphishnet", "head": "none", "options": {"trunk": "big"}}, "vgg16, small"),
    ({"arch": "seed-resnet50", "input": GRAY}, "3 channels"),
    ({"arch": "seed-resnet50", "options": {"width": 3}}, r"options\.width"),
    ({"arch": "timm/resnet18", "options": {"nonsense": 3}}, "timm cannot build resnet18"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_a_card_that_cannot_be_built(change, said):
    card = ModelSpec(name="m", arch="convnet", dim=8).model_copy(update=change)
    with pytest.raises(UserError, match=said):
        build(card)


@pytest.mark.parametrize(
    ("case", "shape", "said"),
    [
        ("visualphishnet", (1, 3, 64, 64), "at least 96 pixels, not 64"),
        ("convnet", (3, 32, 32), "takes images"),
        ("convnet", (1, 2, 32, 32), "1 or 3 channels"),
    ],
)
def test_images_that_cannot_be_embedded(case, shape, said):
    with pytest.raises(UserError, match=said):
        build(CARDS[case][0]).eval()(torch.rand(shape))


def test_a_trunk_of_another_width_is_noticed():
    module = build(CARDS["convnet"][0]).eval()
    module.head = torch.nn.Identity()
    with pytest.raises(UserError, match="check --arch and --dim"):
        module(torch.rand(1, 1, 32, 32))


# --- preprocessing ---------------------------------------------------------------------------


def test_nothing_to_do_is_the_identity():
    x = torch.rand(2, 3, 20, 20)
    assert torch.equal(Preprocess(InputSpec())(x), x)


def test_bgr_comes_before_mean_and_std():
    x = torch.rand(2, 3, 8, 8)
    done = Preprocess(InputSpec(bgr=True, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)))(x)
    for channel, (mean, std) in enumerate(((0.1, 1.0), (0.2, 2.0), (0.3, 4.0))):
        assert torch.allclose(done[:, channel], (x[:, 2 - channel] - mean) / std)


def test_mean_alone_and_std_alone():
    x = torch.rand(1, 1, 8, 8)
    assert torch.allclose(Preprocess(InputSpec(channels=1, mean=(0.5,)))(x), x - 0.5)
    assert torch.allclose(Preprocess(InputSpec(channels=1, std=(0.5,)))(x), x / 0.5)


def test_channels_are_converted_both_ways():
    gray, colour = torch.rand(2, 1, 8, 8), torch.rand(2, 3, 8, 8)
    assert torch.equal(Preprocess(InputSpec(channels=3))(gray), gray.repeat(1, 3, 1, 1))
    luma = sum(w * colour[:, i : i + 1] for i, w in enumerate(LUMA))
    assert torch.allclose(Preprocess(InputSpec(channels=1))(colour), luma)
    assert torch.allclose(Preprocess(InputSpec(channels=1))(torch.ones(1, 3, 8, 8)), torch.ones(1))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("sides", [(60, 24), (24, 64), (51, 48)])
def test_resizing_is_what_pil_does(mode, sides):
    before, after = sides
    rng = np.random.default_rng(0)
    # No black or white: PIL clips bicubic overshoot between its two passes, we once at the end.
    pixels = rng.integers(70, 186, (before, before, 3), dtype=np.uint8)
    resample = getattr(Image.Resampling, mode.upper())
    expected = np.asarray(Image.fromarray(pixels).resize((after, after), resample), float) / 255
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    done = Preprocess(InputSpec(size=after, interpolation=mode))(x)[0].permute(1, 2, 0).numpy()
    assert np.abs(done - expected).max() <= 2.5 / 255  # PIL rounds twice
    assert done.min() >= 0 and done.max() <= 1 + 1e-6


def test_bicubic_overshoot_is_clipped():
    edge = torch.zeros(1, 1, 16, 16)
    edge[..., 8:] = 1
    done = Preprocess(InputSpec(channels=1, size=64, interpolation="bicubic"))(edge)
    raw = F.interpolate(edge, size=(64, 64), mode="bicubic", antialias=True)
    assert raw.max() > 1.01 and raw.min() < -0.01
    assert torch.equal(done, raw.clamp(0, 1))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_shrinking_keeps_a_gradient_at_every_pixel(mode):
    x = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    Preprocess(InputSpec(size=16, interpolation=mode))(x).sum().backward()
    assert (x.grad.abs() > 0).all()


def test_the_gradient_is_that_of_the_function():
    card = InputSpec(size=10, mean=(0.5,) * 3, std=(0.3,) * 3, bgr=True)
    module = Preprocess(card).double()
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64) * 0.8 + 0.1
    assert torch.autograd.gradcheck(module, (x.requires_grad_(),), atol=1e-6)


def test_mean_and_std_are_no_weights():
    module = Preprocess(InputSpec(mean=(0.5,) * 3, std=(0.2,) * 3))
    assert not module.state_dict()
