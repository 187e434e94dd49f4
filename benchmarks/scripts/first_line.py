import time

first = time.monotonic()

import os

with open(os.environ["BENCH_STAMP"], "w", encoding="ascii") as stream:
    stream.write(repr(first))
