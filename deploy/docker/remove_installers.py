"""Remove pip, setuptools, wheel and ensurepip from the Python of an image: nothing is installed in a container."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

PACKAGES = ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack")


def main() -> None:
    """Remove them wherever this interpreter finds packages. A missing one is ignored."""
    paths = sysconfig.get_paths()
    packages = {
        Path(folder) for folder in (*sys.path, paths["purelib"], paths["platlib"]) if folder.endswith("-packages")
    }
    for folder in packages:
        for name in PACKAGES:
            for found in (folder / name, *folder.glob(f"{name}-*.dist-info")):
                shutil.rmtree(found, ignore_errors=True)
    shutil.rmtree(Path(paths["stdlib"], "ensurepip"), ignore_errors=True)
    for script in Path(paths["scripts"]).glob("pip*"):
        script.unlink()


if __name__ == "__main__":
    main()
