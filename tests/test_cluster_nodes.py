"""A cluster of three nodes, of which one goes away in mid-run."""

import pytest

from benchmark.cluster import connected, home_of, run_on_cluster
from benchmark.grid import run_plan
from tests.cluster_worlds import Slow
from tests.grid_worlds import rows_of, same_rows
from tests.test_cluster import CPU, plan_of

pytestmark = pytest.mark.cluster
MODELS = {"a": Slow(), "b": Slow()}


@pytest.fixture
def cluster():
    """Three nodes of one core each; the driver sits on the head."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_node_that_goes_away_in_mid_run_loses_nothing(cluster, tmp_path):
    rooms, removed = [], []

    def watch(state):
        rooms.append(state.room)
        if state.done >= 3 and not removed:
            removed.append(state.done)
            cluster.remove_node(sorted(cluster.worker_nodes, key=str)[0], allow_graceful=False)

    home = home_of(str(tmp_path / "many"))
    with connected("auto"), home.mirrored() as results:
        summary = run_on_cluster(plan_of(results, MODELS, shard_size=4), CPU, home, show=watch)
    assert removed and removed[0] < 20 and not summary.failures
    assert max(rooms) == 3
    run_plan(plan_of(tmp_path / "one", MODELS, shard_size=4), CPU)
    same_rows(rows_of(tmp_path / "many"), rows_of(tmp_path / "one"))
