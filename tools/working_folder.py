"""Build step of the wheel: copy what `reproduce init` writes from the clone into the package."""

import shutil
from pathlib import Path

from setuptools.command import build_py

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / 'reproduce_kit/cli/working_folder.txt'
COPIES = 'reproduce_kit/working_folder'


def listed_files(root: Path = ROOT) -> list:  # paths relative to the clone
    "Return the files that a working folder begins with."
    paths = [path for pattern in LIST.read_text().split() for path in sorted(root.glob(pattern))]
    names = [path.relative_to(root) for path in paths if path.is_file()]
    return [name for name in names if not any(part.startswith('.') for part in name.parts)]


class BuildPy(build_py.build_py):
    "Builds the package with copies of the files."

    def run(self):
        super().run()
        if self.editable_mode:
            return  # the clone is there
        copies = Path(self.build_lib) / COPIES
        shutil.rmtree(copies, ignore_errors=True)
        for name in listed_files():
            (copies / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copies / name)
