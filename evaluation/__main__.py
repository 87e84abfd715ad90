"""`python -m likeness.evaluation MANIFEST --judge dlib --out FOLDER`."""

from __future__ import annotations

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
