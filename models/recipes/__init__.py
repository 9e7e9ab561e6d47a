"""The recipes: a table of losses over the shared loop in `models.training`."""

from attacks.table import Table
from models.recipes.base import Recipe, Step
from models.recipes.natural import Natural
from models.recipes.panum2021 import Panum2021
from models.recipes.visualphishnet import VisualPhishNet

RECIPES: Table[type[Recipe]] = Table("recipe")
for _recipe in (Natural, Panum2021, VisualPhishNet):
    RECIPES.add(_recipe.name, _recipe)

__all__ = ["RECIPES", "Natural", "Panum2021", "Recipe", "Step", "VisualPhishNet"]
