"""The worlds of the conformance kit, under the name by which the tests know them."""

from benchmark.conformance.worlds import World, linear_world, noisy_world

__all__ = ["World", "linear_world", "noisy_world"]
