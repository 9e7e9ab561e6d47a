"""The recipes: a table of losses over the shared loop in `models.training`."""

from attacks.table import Table
from models.recipes.act import ACT
from models.recipes.base import Recipe, Step
from models.recipes.est import EST
from models.recipes.hm import HM
from models.recipes.natural import Natural
from models.recipes.panum2021 import Panum2021
from models.recipes.panum2021_naive import Panum2021Naive
from models.recipes.visualphishnet import VisualPhishNet
from models.recipes.visualphishnet_adv import VisualPhishNetAdv

RECIPES: Table[type[Recipe]] = Table("recipe")
for _recipe in (Natural, Panum2021, Panum2021Naive, EST, ACT, HM, VisualPhishNet, VisualPhishNetAdv):
    RECIPES.add(_recipe.name, _recipe)

__all__ = [
    "ACT",
    "EST",
    "HM",
    "RECIPES",
    "Natural",
    "Panum2021",
    "Panum2021Naive",
    "Recipe",
    "Step",
    "VisualPhishNet",
    "VisualPhishNetAdv",
]
