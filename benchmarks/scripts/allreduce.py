import os
import time

import horovod.tensorflow as hvd
import tensorflow as tf

hvd.init()
hvd.allreduce(tf.ones([1024]), name="first")
done = time.monotonic()
with open(f"{os.environ['BENCH_STAMP']}.{hvd.rank()}", "w", encoding="ascii") as stream:
    stream.write(f"{done} {hvd.size()}")
