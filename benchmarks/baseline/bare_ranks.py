"""Two Horovod ranks without any launcher: a rendezvous server, two processes, and no more than they need.

python bare_ranks.py <script>      (with the training environment's interpreter)
"""

from __future__ import annotations

import os
import subprocess
import sys

from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
from horovod.runner.http.http_server import RendezvousServer


def main() -> int:
    assignments = get_host_assignments(parse_hosts("localhost:2"), 2)
    server = RendezvousServer()
    port = server.start()
    server.init(assignments)
    ranks = []
    for slot in assignments:
        own = {
            "HOROVOD_RANK": slot.rank,
            "HOROVOD_SIZE": slot.size,
            "HOROVOD_LOCAL_RANK": slot.local_rank,
            "HOROVOD_LOCAL_SIZE": slot.local_size,
            "HOROVOD_CROSS_RANK": slot.cross_rank,
            "HOROVOD_CROSS_SIZE": slot.cross_size,
            "HOROVOD_HOSTNAME": slot.hostname,
            "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
            "HOROVOD_GLOO_RENDEZVOUS_PORT": port,
            "HOROVOD_GLOO_IFACE": "lo",
            "HOROVOD_CONTROLLER": "gloo",
            "HOROVOD_CPU_OPERATIONS": "gloo",
        }
        env = {**os.environ, **{key: str(value) for key, value in own.items()}}
        ranks.append(subprocess.Popen([sys.executable, sys.argv[1]], env=env))
    codes = [rank.wait() for rank in ranks]
    server.stop()
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
