"""Which promises an attack makes, read off what it declares."""

from attacks.attack import Attack
from attacks.searches import Search


def sharp(attack: Attack) -> str:
    """Why it is not held to reach a boundary; empty for a white-box, iterative one that aims there."""
    return aimless(attack) or _missing(attack, "white-box", "iterative")


def aimless(attack: Attack) -> str:
    """Why the attack need not reach the boundary at all; empty where it aims there."""
    if not attack.objective.crosses:
        return f"the objective {attack.objective.name} does not aim at the boundary (crosses = False)"
    if attack.last:
        return "it claims its last iterate only"
    return ""


def blind(attack: Attack) -> bool:
    """Whether it is black-box: held to reach the boundary, less closely."""
    declared = {"black-box", "iterative"} <= attack.declares
    return declared or ("iterative" in attack.declares and "white-box" not in attack.declares)


def _missing(attack: Attack, *wanted: str) -> str:
    missing = [word for word in wanted if word not in attack.declares]
    return f"it does not declare itself {' and '.join(missing)}" if missing else ""


def stepped(attack: Attack) -> bool:
    """Whether the engine steps it, so that it is told of each new aim."""
    return isinstance(attack.search, Search)


def starts_at_random(attack: Attack) -> bool:
    """Whether it declares that it follows gradients from random starts."""
    return isinstance(attack.search, Search) and attack.search.random and attack.search.needs_gradient
