"""Parameters that several flows have, as their forms show them."""

from typing import Annotated

from cogvx.form import in_form
from cogvx.recipe import Recipe

AnyRecipe = Annotated[Recipe, in_form("Recipe")]
Shard = Annotated[str, in_form("Shard", "Digest of its plan in the store")]
Part = Annotated[str, in_form("Part", "Which shard it is, for people")]
