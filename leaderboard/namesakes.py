"""Results that share a name and are not of one model or of one set of images: what to say of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from leaderboard.entry import Entry
from leaderboard.records import Cell, CellRecord, ModelCard, cell_path

_NETWORK = ("arch", "dim", "head", "distance", "l2norm")


def namesakes(shown: Cell, others: Sequence[Cell]) -> str:
    """The sentence for a place whose cells are of several models; "" where they are of one.

    It names the folder that the board shows, and those that it leaves out.
    """
    r = shown.record
    odd = {folder_of(cell): said for cell in others if (said := differences(r, cell.record))}
    if not odd:
        return ""
    what, left = " and ".join(dict.fromkeys(odd.values())), ", ".join(map(str, odd))
    return (
        f"{r.model.name} on {r.dataset.name} ({r.norm}): results of different {what} share this name; the "
        f"board shows {folder_of(shown)} and leaves out {left}, so remove what is not wanted, or submit one "
        "of the models under another --name"
    )


def folder_of(cell: Cell) -> Path:
    """Where the shards of a cell lie."""
    return (cell.paths[0] if cell.paths else cell_path(Path(), cell.record)).parent


def differences(a: CellRecord | Entry, b: CellRecord | Entry) -> str:
    """What two results of one name differ in, "" for nothing: as far as their records tell.

    Records hold the digest of the whole model and what its card says, not the digest of its weights: these
    are named only where the cards agree.
    """
    found = list(_of_models(a.model, b.model)) if a.model.digest != b.model.digest else []
    return " and ".join(found + ["images"] * (a.dataset.digest != b.dataset.digest))


def _of_models(a: ModelCard, b: ModelCard) -> Iterator[str]:
    one, other = a.model_dump(mode="json"), b.model_dump(mode="json")
    inputs = [card.get("input") or {} for card in (one, other)]
    keys = sorted({*inputs[0], *inputs[1]})
    preprocessing = [key for key in keys if inputs[0].get(key) != inputs[1].get(key)]
    network = [key for key in _NETWORK if one.get(key) != other.get(key)]
    if preprocessing:
        yield f"preprocessing ({', '.join(preprocessing)})"
    if network:
        yield f"networks ({', '.join(network)})"
    if not preprocessing and not network:
        yield "weights"
