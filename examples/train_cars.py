"""Train a small timm network on the training classes of Cars196-half, without a defence.

    python examples/train_cars.py --data-root ROOT [--out FOLDER]

ROOT holds cars196/ in pytorch-metric-learning's layout. About 20 minutes on two cores; a run that was
stopped goes on from its last epoch. Writes cars-natural.pth (a bare state_dict) and .safetensors into
FOLDER, either of which `robustdml submit` takes.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import pil_to_tensor, resized_crop

from benchmark.datasets import load_task
from models.cards import store
from models.recipes import Natural
from models.registry import build
from models.spec import ModelSpec
from models.training import Settings, seeded, train

SIDE = 64
NAME = "cars-natural"


class Crops:
    """Files as random crops (3, SIDE, SIDE) in [0, 1], flipped half of the time.

    The files are decoded once; what is drawn comes from torch's own generator.
    """

    def __init__(self, paths: Sequence[str], smallest: float) -> None:
        self._images = [pil_to_tensor(Image.open(path).convert("RGB")) for path in paths]
        self._smallest = smallest

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        image = self._images[index]
        box = RandomResizedCrop.get_params(image, [self._smallest, 1.0], [3 / 4, 4 / 3])
        crop = resized_crop(image, *box, [SIDE, SIDE], InterpolationMode.BILINEAR, antialias=True)
        return (crop.flip(2) if torch.rand(()) < 0.5 else crop).float() / 255


def recolour(images: Tensor) -> Tensor:
    """Another paint and another light for each of (B,3,H,W): a model comes in many colours."""
    count = len(images)
    mean = images.mean((1, 2, 3), keepdim=True)
    light, contrast, saturation = (0.6 + 0.8 * torch.rand(3, count, 1, 1, 1)).unbind()
    grey = images.mean(1, keepdim=True)
    turned = torch.einsum("bij,bjhw->bihw", _turns(count), images)
    changed = grey + saturation * (turned - grey)
    return (light * (mean + contrast * (changed - mean))).clamp(0, 1)


def _turns(count: int) -> Tensor:
    """Random rotations of the colour cube about its grey diagonal: (count, 3, 3)."""
    angle = (torch.rand(count, 1, 1) * 2 - 1) * math.pi
    diagonal = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return torch.cos(angle) * (torch.eye(3) - diagonal) + torch.sin(angle) * cross + diagonal


def main() -> None:
    """Read the arguments, train, write the weights, say how to submit them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds cars196/")
    parser.add_argument("--out", type=Path, default=Path("build") / NAME, help="folder of the results")
    parser.add_argument("--arch", default="timm/resnet10t", help="default: timm/resnet10t")
    parser.add_argument("--dim", type=int, default=128, help="D of the (B, D) embedding; default: 128")
    parser.add_argument("--loss", default="multi-similarity", help="contrastive, triplet, multi-similarity")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    spec = ModelSpec(name=NAME, arch=arguments.arch, dim=arguments.dim)
    settings = Settings(
        epochs=arguments.epochs, batch=112, per_class=4, rate=2e-3, weight_decay=0.05, amp=True, held_out=0.1
    )
    task = load_task("cars196-half", arguments.data_root, split="train")
    with seeded(settings.seed):
        module = build(spec)
    result = train(
        module,
        Crops(task.paths, smallest=0.4),
        task.labels,
        Natural(loss=arguments.loss),
        settings,
        arguments.out,
        augment=recolour,
        plain=task.images,
    )
    path = arguments.out / f"{NAME}.pth"
    torch.save(result.weights, path)
    store(spec, result.weights, path.with_suffix(".safetensors"), arguments.out)
    print(f"Epoch {result.epoch} was best on the held-out training classes. To score it:")
    print(
        f"robustdml submit {path} --name {NAME} --arch {spec.arch} --dim {spec.dim} "
        f"--dataset cars196-half --data-root {arguments.data_root}"
    )


if __name__ == "__main__":
    main()
