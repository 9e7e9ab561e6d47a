"""Another model in front of the same queries: what an attack by transfer climbs on."""

from dataclasses import dataclass

from torch import Tensor

from attacks.objectives import Scene
from attacks.retrieval import Marks, Standing
from attacks.victim import Victim


@dataclass
class Surrogate:
    """A model that is not itself attacked; nothing is claimed from what it sees.

    `model` has embedded the victim's gallery, the same items in the same order; its meter counts the
    passes through it. `clean` (Q, D) are its prepared embeddings of the run's clean queries.
    """

    model: Victim
    clean: Tensor

    def look(
        self, x: Tensor, rows: Tensor, marks: Marks, aim: Tensor, most: int, gradient: bool
    ) -> tuple[Tensor, Scene]:
        """Perturbed images (n, C, H, W) of the queries `rows` (n,), as it sees them.

        `aim` and `most`: as of a `Scene`. Returns the leaf that carries the gradient (as `Victim.probe` does)
        and the scene.
        """
        gallery = self.model.gallery
        leaf, vectors = self.model.probe(x, gradient)
        prepared = gallery.prepare(vectors)
        standing = Standing(gallery, prepared.detach(), marks, gallery.tau)
        return leaf, Scene(gallery, prepared, standing, aim, self.clean[rows], most)
