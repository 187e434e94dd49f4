import os
import time

BYTES = 10 * 1024**3

line = b"the loss is 0.123456 and the accuracy 0.9876\n"
block = line * (1024 * 1024 // len(line))
began, left = time.monotonic(), BYTES
while left > 0:
    view = memoryview(block)
    left -= len(view)
    while view:
        view = view[os.write(1, view) :]
seconds = time.monotonic() - began
with open(os.environ["BENCH_STAMP"], "w", encoding="ascii") as stream:
    stream.write(repr(BYTES / seconds / 1024**2))
