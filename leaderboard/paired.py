"""An exact paired test that keeps classes together, to tell a better attack from a lucky one.

If two attacks were equally strong, exchanging their names within a class would change nothing, so each
class' difference is as likely to carry either sign. The distribution of the sum under all 2^C signs is
found exactly, by Fourier inversion (Pagano and Tritchler 1983, "On obtaining permutation distributions
in polynomial time"). A bootstrap of 2,000 resamples cannot see below p = 0.001, which Holm's correction
over fifty differences lifts above any level.
"""

import numpy as np
from numpy.typing import NDArray


def class_sums(values: NDArray[np.generic], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum whole numbers (Q,) over the queries of each class: (C,)."""
    _, position = np.unique(labels, return_inverse=True)
    return np.rint(np.bincount(position, weights=values.astype(float))).astype(np.int64)


def sign_flip_p(differences: NDArray[np.int64]) -> float:
    """Two-sided p-value of "no difference" from whole differences per class: (C,) -> (0, 1].

    The share of all assignments of signs whose sum is at least as far from 0 as the one observed.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    observed, total = abs(int(differences.sum())), int((sizes * counts).sum())
    if observed == 0:
        return 1.0
    length = 1 << (2 * total + 1).bit_length()  # the sum lies in -total..total: no wrapping round
    angle = 2 * np.pi * np.arange(length // 2 + 1) / length
    spectrum = np.ones(len(angle))
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        spectrum *= np.cos(size * angle) ** count
    chance = np.fft.irfft(spectrum, length)[observed : total + 1].sum()
    # Rounding (1e-16 a term) must not make a p-value smaller than the smallest there can be.
    return float(np.clip(2 * chance, 2.0 ** (1 - min(int(counts.sum()), 1000)), 1.0))
