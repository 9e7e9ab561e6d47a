"""The grid on Ray (extra `cluster`): one machine's cores and GPUs, or many machines.

A shard is one Ray task, and it writes the same record by the same code as on one machine, so either
run goes on where the other stopped. Ray schedules, repeats what a dead worker had, and shares weights,
images and embeddings; here is only what to send and what to make of the answers.
"""

from benchmark.cluster.drive import State, run_on_cluster
from benchmark.cluster.home import Home, Remote, Shared, home_of
from benchmark.cluster.needs import Needs, kind_of
from benchmark.cluster.session import connected

__all__ = ["Home", "Needs", "Remote", "Shared", "State", "connected", "home_of", "kind_of", "run_on_cluster"]
