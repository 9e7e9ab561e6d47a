"""The files that every page shares: our style and script, and the kept libraries from installed packages.

Pages must open from disk, where a browser loads no module and no JSON file: DataTables, which itables
packs as a module, becomes a plain script.
"""

import re
from importlib.util import find_spec
from pathlib import Path

from leaderboard.errors import UserError

_OURS = Path(__file__).parent / "static"
_EXPORT = re.compile(r"export\s*\{([^{}]*)\}\s*;?")


def shared_files() -> dict[str, bytes]:
    """Contents of `static/`, by file name; UserError where a package of the extra `site` is missing."""
    tables = _packaged("itables") / "html"
    ours = {path.name: path.read_bytes() for path in sorted(_OURS.iterdir())}
    return ours | {
        "plotly.js": (_packaged("plotly") / "package_data" / "plotly.min.js").read_bytes(),
        "datatables.js": plain_script((tables / "dt_bundle.js").read_text(encoding="utf-8")).encode(),
        "datatables.css": (tables / "dt_bundle.css").read_bytes(),
    }


def _packaged(name: str) -> Path:
    """Find the folder of an installed package without importing it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"The site needs the package {name}: install robustdml with its extra `site`.")
    return Path(spec.submodule_search_locations[0])


def plain_script(module: str) -> str:
    """Turn a module without imports into a script that sets `window.DataTables` to what it exports."""
    names = [pair.split(" as ") for pair in _the_export(module).split(",")]
    exported = ",".join(f"{pair[-1].strip()}:{pair[0].strip()}" for pair in names)
    body = _EXPORT.sub(lambda _: f"window.DataTables={{{exported}}};", module)
    return f'(function(){{"use strict";\n{body}\n}})();\n'


def _the_export(module: str) -> str:
    found = _EXPORT.findall(module)
    if len(found) != 1:
        raise UserError(f"The packaged DataTables of itables has {len(found)} export lists, not 1.")
    return str(found[0])
