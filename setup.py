"""What pyproject.toml cannot say: the pages of docs/ go into the package that draws the site.

They have one source, docs/ in the repository; an installation from a wheel finds its copy in
leaderboard/site/docs (`leaderboard/site/documents.py`).
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithDocuments(build_py):
    """Copies docs/*.md into the built packages."""

    def documents(self) -> list[tuple[Path, Path]]:
        """The pages, each with its place in the build."""
        place = Path(self.build_lib) / "leaderboard" / "site" / "docs"
        return [(path, place / path.name) for path in sorted(Path("docs").glob("*.md"))]

    def run(self) -> None:
        """Build as always; an editable installation reads docs/ where it lies."""
        super().run()
        if self.editable_mode:
            return
        found = self.documents()
        if not found:
            raise FileNotFoundError("docs/*.md: the source distribution is not whole")
        for path, place in found:
            place.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(path), str(place))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """What the build writes, the pages among it."""
        files = list(super().get_outputs(include_bytecode))
        return files if self.editable_mode else [*files, *(str(place) for _, place in self.documents())]


setup(cmdclass={"build_py": WithDocuments})
