"""What a result is, and how it is shown. Never imports torch.

Names are loaded when they are first used, so that `import leaderboard` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leaderboard.publish import write
    from leaderboard.results import load_results
    from leaderboard.site.build import write_site

__all__ = ["load_results", "write", "write_site"]

_HOME = {
    "load_results": "leaderboard.results",
    "write": "leaderboard.publish",
    "write_site": "leaderboard.site.build",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'leaderboard' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
