"""glyphs: the embedded dataset, characters of many fonts as 1 x 32 x 32 images."""

import hashlib
import io
import lzma
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from attacks.errors import UserError

SIDE = 32
FILE = Path(__file__).with_name("glyphs.npz")
SHA256 = "97a3003e41d5f5e130882afaebaf19d33c538ffffacfd2b339859dfd86dc6233"
NOISE_SEED = 7265
NOISE = 13  # standard deviation, in levels of 255

Levels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


def pack(
    out: BinaryIO,
    strokes: Levels,
    labels: Ints,
    test: npt.NDArray[np.bool_],
    paper: Ints,
    ink: Ints,
    characters: list[str],
) -> None:
    """Write the dataset: strokes (N, SIDE, SIDE) in 0..15, two to a byte and compressed."""
    flat = strokes.reshape(len(strokes), -1)
    nibbles = (flat[:, 0::2] << 4 | flat[:, 1::2]).tobytes()
    np.savez(
        out,
        strokes=np.frombuffer(lzma.compress(nibbles, preset=9 | lzma.PRESET_EXTREME), dtype=np.uint8),
        labels=labels.astype("<u2"),
        test=test,
        paper=paper.astype(np.uint8),
        ink=ink.astype(np.uint8),
        characters=np.array([ord(c) for c in characters], dtype="<u4"),
    )


def noise(shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Return fixed, nearly normal noise in levels of 255.

    Only raw bits and integer sums are used: numpy promises them for ever, and not the streams of
    its distributions, and the noise is part of the dataset's digest.
    """
    count = int(np.prod(shape))
    bits = np.random.PCG64(NOISE_SEED).random_raw(count).astype("<u8").view("<u2")
    # Four uniform 16-bit numbers: their sum has a standard deviation of 2^16 / sqrt(3).
    sums = bits.reshape(count, 4).astype(np.int64).sum(axis=1) - 4 * 32767 - 2
    return ((sums * NOISE * 113512 + (1 << 31)) >> 32).reshape(shape).astype(np.int32)


def unpack(content: bytes) -> tuple[Levels, Ints, npt.NDArray[np.bool_], list[str]]:
    """Return images (N, SIDE, SIDE) with noise, labels (N,), the test mask (N,), characters."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        parts = {name: file[name] for name in file.files}
    n = len(parts["labels"])
    nibbles = np.frombuffer(lzma.decompress(parts["strokes"].tobytes()), dtype=np.uint8)
    strokes = np.stack([nibbles >> 4, nibbles & 15], axis=-1).reshape(n, SIDE, SIDE).astype(np.int32)
    paper, ink = (parts[name].astype(np.int32)[:, None, None] for name in ("paper", "ink"))
    clean = paper + (ink - paper) * strokes // 15
    images = np.clip(clean + noise(clean.shape), 0, 255).astype(np.uint8)
    return images, parts["labels"].astype(np.int64), parts["test"], [chr(c) for c in parts["characters"]]


def load(split: str) -> tuple[Levels, Ints, list[str]]:
    """Return images (N, SIDE, SIDE) in 0..255, labels (N,) and the characters of one split.

    Raises UserError when the installed file is not the one that was published.
    """
    content = FILE.read_bytes() if FILE.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(f"The embedded dataset {FILE} is missing or changed; install robustdml again.")
    images, labels, test, characters = unpack(content)
    chosen = test == (split == "test")
    return images[chosen], labels[chosen], characters
