"""Threats of the RobRank family (Zhou et al. 2020, arXiv 2002.11293; Zhou & Patel, CVPR 2022).

They differ from the rest of `attacks` in what they aim at (one named item, one random embedding, an
image of the gallery instead of the query) and by decree in how they search: fixed sign steps, no random
start, last iterate. So they have a loop and a table of their own; budgets, victim and gallery are shared.
"""

NAME = "robrank"
"""What the suite is called on the command line."""
