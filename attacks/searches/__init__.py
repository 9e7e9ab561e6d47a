"""How to move the image: stepped searches.

A search owns one step; the engine owns the loop. `start` makes the state of some rows, `step` moves
it by one gradient. All state is per row, so that the engine can drop finished rows and fill their
places with new ones; a search never mixes rows. The engine evaluates `state.x` between two steps,
records every iterate that breaks something (so a search keeps no best of its own unless it steers
by it), and clips and audits what it is given.
"""

from attacks.searches.base import Look, Search, State, begin, climb, join, keep, scatter
from attacks.searches.min_norm import FMN
from attacks.searches.projected import FGSM, PGD
from attacks.searches.random_points import Noise

__all__ = [
    "FGSM",
    "FMN",
    "PGD",
    "Look",
    "Noise",
    "Search",
    "State",
    "begin",
    "climb",
    "join",
    "keep",
    "scatter",
]
