"""Laws, oracles and golden files."""
