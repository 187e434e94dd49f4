import os
import sys
import time

LINES = 1_000_000

began = time.monotonic()
for number in range(LINES):
    print(f"line {number}: the loss is 0.123456 and the accuracy 0.9876")
sys.stdout.flush()
seconds = time.monotonic() - began
with open(os.environ["BENCH_STAMP"], "w", encoding="ascii") as stream:
    stream.write(repr(LINES / seconds))
