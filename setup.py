"""What pyproject.toml cannot say: the wheel carries the model repository, whose place in the tree is `model_repo/`."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_REPOSITORY = "model_repo"


class BuildWithRepository(build_py):
    """Copies `model_repo/` into the package, where an installed `masklet triton` looks for it."""

    def run(self) -> None:
        """Build; an editable install reads the tree instead."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "masklet" / _REPOSITORY
            shutil.copytree(_REPOSITORY, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithRepository})
