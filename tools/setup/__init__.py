"""Two commands on a fresh machine: what `make up` and `make test` need before they can start.

Runs on the system's Python (3.9 or later) with the standard library alone, because nothing else is there yet.

    venv          .venv with the locked requirements and this project (editable)
    engine        the Pulumi engine: found on PATH, or downloaded, or built from Go modules
    environments  the interpreters that training runs in, with Horovod
    all           the three, the slow ones side by side
"""

import sys

if sys.version_info < (3, 9):  # here, before any module that an older Python could not even read
    sys.exit(
        "error: this is Python {}; the set-up needs 3.9 or later.\n"
        "  do:       install one, or name one that is there: make PYTHON=python3.11 ...".format(sys.version.split()[0])
    )
