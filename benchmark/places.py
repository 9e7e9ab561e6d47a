"""Where data sets lie on this machine; imports no torch."""

import os
from pathlib import Path

import platformdirs


def data_root(root: Path | str | None) -> Path:
    """Return where datasets lie: `root`, else ROBUSTDML_DATA, else the user's data folder."""
    if root is not None:
        return Path(root).expanduser()
    named = os.environ.get("ROBUSTDML_DATA")
    return Path(named).expanduser() if named else platformdirs.user_data_path("robustdml")
