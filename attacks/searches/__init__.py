"""How to move the image: stepped searches.

A search owns one step; the engine owns the loop. `start` makes the state of some rows, `step` moves
it by one gradient. All state is per row, so that the engine can drop finished rows and fill their
places with new ones; a search never mixes rows. The engine evaluates `state.x` between two steps,
records every iterate that breaks something (so a search keeps no best of its own unless it steers
by it), and clips and audits what it is given.
"""

from attacks.searches.apgd import APGD
from attacks.searches.base import Keyed, Look, Search, State, begin, climb, draw, join, keep, keys, scatter
from attacks.searches.cw import CW
from attacks.searches.min_norm import DDN, FMN
from attacks.searches.nes import NES
from attacks.searches.projected import FGSM, PGD, Momentum
from attacks.searches.random_points import Noise
from attacks.searches.square import Square

__all__ = [
    "APGD",
    "CW",
    "DDN",
    "FGSM",
    "FMN",
    "NES",
    "PGD",
    "Keyed",
    "Look",
    "Momentum",
    "Noise",
    "Search",
    "Square",
    "State",
    "begin",
    "climb",
    "draw",
    "join",
    "keep",
    "keys",
    "scatter",
]
