"""The program of a run's own process: starts the replicas, watches them, and outlives whoever asked for the run.

    python -I -S supervisor.py <attempt folder>      (a JSON message on standard input, see group.py)

Kept this short because a main program is compiled anew each time; all else is in modules, which are cached.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Supervise the attempt whose folder the argument names."""
    # This file is <root>/pulumi_tfjobs/targets/local/supervisor.py. Appended, not put first: <root> may be a
    # site-packages folder, where some package shadows a module of the standard library.
    sys.path.append(os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..")))
    from pulumi_tfjobs.targets.local.detach import run

    run(sys.argv[1])
    os._exit(0)  # all is written and closed: whoever waits for the end need not wait for an interpreter's farewell


if __name__ == "__main__":
    main()
