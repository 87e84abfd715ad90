"""The launcher: `python run.py --help`. Needs nothing but Python 3.10 or newer with pip."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036  (this file must also speak to older ones)
    found = sys.version.split()[0] + " (" + sys.executable + ")"
    sys.exit("Likeness needs Python 3.10 or newer; this is Python " + found)

from host.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
