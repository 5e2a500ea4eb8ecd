"""What pyproject.toml cannot say: sweeps, shipped parts and the study are data of the installed package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("sweeps", "results/parts", "results/study")


class BuildWithShipped(build_py):
    """Copies them to `mm1_lab/shipped`; an editable installation finds them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in SHIPPED:
                target = Path(self.build_lib) / "mm1_lab" / "shipped" / name
                shutil.copytree(Path(__file__).parent / name, target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithShipped})
