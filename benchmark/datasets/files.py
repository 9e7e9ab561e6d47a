"""Image files as a task's images: decoded when asked for, kept while they fit in memory."""

import hashlib
import io
import os
import struct
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from attacks.errors import UserError
from benchmark.images import THREADS

PIXELS = 64_000_000
"""A larger image is refused before it is decoded: a small file can hide one that fills the memory."""

FILE_BYTES = 512_000_000
"""A larger file is no picture of PIXELS, and is not read."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What a file may be, whatever its name says: Pillow hands some others to programs (EPS to Ghostscript)."""

KEEP_BYTES = 2_000_000_000
"""Decoded images are kept, a byte a value, while the whole set needs no more than this."""

# What Pillow's decoders raise on damaged or hostile files.
DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

# Pillow warns of a bomb before PIXELS is looked at; the refusal below says it in one sentence.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Transform:
    """How a file becomes a tensor. Its repr is part of the dataset's digest.

    `crop`: the short side becomes side x 256/224 and the centre is cut out (the protocol's
    transform); otherwise the whole image is stretched to side x side. Both bilinear and
    antialiased, on 8-bit values as Pillow does it. `invert` makes dark ink 1 and paper 0.
    Orientation tags are not applied, as the published loaders do not apply them.
    """

    side: int = 224
    mode: str = "RGB"
    crop: bool = True
    invert: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return len(Image.new(self.mode, (1, 1)).getbands()), self.side, self.side

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Return (C, H, W) uint8."""
        image = eight_bit(image).convert(self.mode)
        image = self._crop(image) if self.crop else image.resize((self.side,) * 2, Image.Resampling.BILINEAR)
        values = np.asarray(image, dtype=np.uint8)
        if values.ndim == 2:
            values = values[..., None]
        return np.ascontiguousarray((255 - values if self.invert else values).transpose(2, 0, 1))

    def _crop(self, image: Image.Image) -> Image.Image:
        """Resize and cut the centre, with the rounding of torchvision's Resize and CenterCrop."""
        short, target = min(image.size), round(self.side * 256 / 224)
        width, height = (target if edge == short else int(target * edge / short) for edge in image.size)
        if width * height > PIXELS:
            raise ValueError("it is too long and narrow to be cropped")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - self.side) / 2), round((height - self.side) / 2)
        return image.crop((left, top, left + self.side, top + self.side))


def eight_bit(image: Image.Image) -> Image.Image:
    """Bring 16-bit grey to 8 bits, which Pillow's own conversion would clip to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of mode {image.mode}, not of 8 or 16 bits")
    # A palette with a transparent colour goes through RGBA, as Pillow asks.
    return image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image


def decode(
    path: Path,
    transform: Callable[[Image.Image], npt.NDArray[np.uint8]],
    mark: bytes | None = None,
) -> npt.NDArray[np.uint8]:
    """Read one file into (C, H, W) uint8, as `transform` makes it.

    UserError names a file that is missing or damaged, or whose sha256 is no longer `mark`.
    """
    content = _read(path)
    if mark is not None and hashlib.sha256(content).digest() != mark:
        raise UserError(f"The image {path} has changed while it was in use; run the same command again.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > PIXELS:
                raise UserError(
                    f"The image {path} has {image.width} x {image.height} pixels, more than the "
                    f"{PIXELS // 1_000_000} million allowed; shrink it or take it out."
                )
            return transform(image)
    except UnidentifiedImageError as error:
        raise UserError(f"The image {path} is damaged or no image; replace it.") from error
    except DAMAGE as error:
        said = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise UserError(f"The image {path} cannot be decoded ({said}); replace it.") from error


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > FILE_BYTES:
            raise UserError(f"The image {path} takes more than {FILE_BYTES:,} bytes; take it out.")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"The image {path} is missing; put it back or take it out of the list.") from error
    except OSError as error:
        raise UserError(f"The image {path} cannot be read ({error.strerror}); check the file.") from error


class FileImages:
    """Files as images (see `benchmark.images.Images`), each (C, H, W) float32 in [0, 1]."""

    def __init__(self, paths: Sequence[Path], transform: Transform) -> None:
        self._paths = tuple(paths)
        self._transform = transform
        # Pages of an empty array cost nothing until an image is written to them.
        shape = (len(self._paths), *transform.shape)
        fits = int(np.prod(shape)) <= KEEP_BYTES
        self._kept = np.empty(shape, dtype=np.uint8) if fits else None
        self._known = np.zeros(len(self._paths), dtype=bool)
        self._marks: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def __getstate__(self) -> dict[str, Any]:
        # What was decoded is not worth sending to another process.
        return {"paths": self._paths, "transform": self._transform, "marks": self._marks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["paths"], state["transform"])  # type: ignore[misc]
        self._marks = state["marks"]

    def _bytes(self, index: int) -> npt.NDArray[np.uint8]:
        # Results are keyed by what was hashed: other bytes may not take its place later on.
        mark = self._marks.get(index)
        if self._kept is None:
            return decode(self._paths[index], self._transform, mark)
        if not self._known[index]:
            self._kept[index] = decode(self._paths[index], self._transform, mark)
            self._known[index] = True
        return self._kept[index]

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self._bytes(index).astype(np.float32) / np.float32(255))

    def batch(self, positions: Sequence[int]) -> list[Tensor]:
        """Return the images at `positions`; several threads decode what is not kept yet."""
        if self._known[list(positions)].all():
            return [self[p] for p in positions]
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            return list(pool.map(self.__getitem__, positions))

    def fingerprint(self, index: int) -> bytes:
        """Return a sha256 over the file's bytes and the transform; nothing is decoded."""
        content = _read(self._paths[index])
        self._marks[index] = hashlib.sha256(content).digest()
        return hashlib.sha256(repr(self._transform).encode() + content).digest()


def require(paths: Sequence[Path], source: str) -> None:
    """Raise UserError naming the first of the files listed by `source` that is not there."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{source} lists the image {missing[0]}{more}, which is missing; put it back.")
