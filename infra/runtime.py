#!/usr/bin/env python
"""Print what the project needs at run time, extras left out: `runtime.py pyproject.toml`.

An image installs that first, from files that seldom change, and the project's own code afterwards.
"""

import sys
import tomllib
from pathlib import Path

if __name__ == "__main__":
    project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
    sys.stdout.write("\n".join(project["dependencies"]) + "\n")
