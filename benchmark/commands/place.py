"""Where `robustdml run` computes and keeps its results: this process and a folder, or a Ray cluster."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.cluster import Home, Needs
    from benchmark.grid import Plan, Summary
    from benchmark.scoring import Settings

    Runner = Callable[[Plan, Settings], Summary]


@dataclass(frozen=True)
class Place:
    """A results folder that can be read here, and who runs a plan on it."""

    results: Path
    run: "Runner"
    cluster: str | None = None

    def require_here(self, what: str) -> None:
        """Refuse what runs in this process alone; UserError on a cluster."""
        from attacks.errors import UserError

        if self.cluster is not None:
            raise UserError(f"{what} runs on one machine only; leave out --cluster for it.")

    def planning(self, settings: "Settings") -> "Settings":
        """How to plan: where others compute, this machine need not have their GPU."""
        if self.cluster is None:
            return settings
        from benchmark.cluster import kind_of

        kind_of(settings)
        return replace(settings, device=None)


@contextmanager
def place(results: str, cluster: str | None, needs: dict[str, Any]) -> Iterator[Place]:
    """Where to run; UserError for options of a cluster without one, and for an address that is none.

    `needs`: what was said of the tasks, as `options.needs` makes it.
    """
    from attacks.errors import UserError

    if cluster is not None:
        with _on_cluster(results, cluster, needs) as found:
            yield found
    elif needs:
        names = "--workers, --worker-cpus, --worker-gpus, --worker-memory and --patience"
        raise UserError(f"{names} are for a cluster; say which one, such as --cluster local.")
    elif "://" in results:
        raise UserError(f"Results at {results} need --cluster; without one give a folder.")
    else:
        yield here(Path(results))


def here(results: Path) -> Place:
    """A folder, and the process that asks."""
    return Place(results, _in_this_process)


def _in_this_process(plan: "Plan", settings: "Settings") -> "Summary":
    from benchmark.commands.show import progress
    from benchmark.grid import run_plan

    with progress() as tick:
        return run_plan(plan, settings, tick)


@contextmanager
def _on_cluster(results: str, address: str, said: dict[str, Any]) -> Iterator[Place]:
    from benchmark.cluster import Needs, home_of
    from benchmark.cluster.session import require_ray

    require_ray(address)
    needs, home = Needs(**said), home_of(results)
    with ExitStack() as session, home.mirrored() as folder:
        yield Place(folder, _sender(address, needs, home, session), address)


def _sender(address: str, needs: "Needs", home: "Home", session: ExitStack) -> "Runner":
    """A runner that joins the cluster when there is something to run, and stays until the session ends."""
    from benchmark.cluster import connected, run_on_cluster
    from benchmark.commands.show import note
    from benchmark.commands.show_cluster import shown

    joined: list[bool] = []

    def run(plan: "Plan", settings: "Settings") -> "Summary":
        if not joined:
            cores = needs.workers and needs.workers * needs.cpus
            session.enter_context(connected(address, cores))
            joined.append(True)
        with shown() as show:
            return run_on_cluster(plan, settings, home, needs, show, note)

    return run
