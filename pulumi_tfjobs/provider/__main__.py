"""``pulumi-resource-tfjobs [engine address]``: start, say the port, serve until the engine is gone.

Without an address it waits to be attached to: ``PULUMI_DEBUG_PROVIDERS=tfjobs:<port> pulumi up``.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading

USAGE = """usage: pulumi-resource-tfjobs [engine address]

The Pulumi plugin for TensorFlow training jobs. The Pulumi engine starts it by itself.
To serve a run of the engine from this process: start it without arguments in the folder of the Pulumi program, and run
PULUMI_DEBUG_PROVIDERS=tfjobs:<the port that it prints> pulumi up
"""

STOP_SECONDS = 2.0
# gRPC's core writes to stderr, and handlers for forks only slow down the processes that are started here.
_GRPC = {"GRPC_VERBOSITY": "NONE", "GRPC_ENABLE_FORK_SUPPORT": "0"}


def main() -> None:
    """Entry point of the console script. Does not return."""
    gc.disable()  # until the port is said: what is loaded stays, so looking through it is in vain
    engine = os.getppid()
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stderr.write(USAGE)
        sys.exit(0)
    added = {name: value for name, value in _GRPC.items() if name not in os.environ}
    os.environ.update(added)
    import asyncio

    try:
        # The loop is left as it is, with what still waits on it: asyncio.run would wait for a component's construction
        # whose engine is gone, for ever.
        asyncio.new_event_loop().run_until_complete(_serve(arguments[0] if arguments else "", engine, tuple(added)))
    except KeyboardInterrupt:
        code = 0
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user
        from pulumi_tfjobs.provider.faults import unexpected

        sys.stderr.write(f"pulumi-resource-tfjobs could not start: {unexpected(error, 'start')}\n")
        code = 1
    else:
        code = 0
    sys.stderr.flush()
    # Threads that still import or read must not hold the plugin back: runs are not its children, nothing is lost.
    os._exit(code)


async def _serve(engine_address: str, engine: int, added: tuple[str, ...]) -> None:
    import asyncio
    import signal

    from pulumi_tfjobs.provider.engine_log import EngineLog, shows_terminal
    from pulumi_tfjobs.provider.faults import FileHandler
    from pulumi_tfjobs.provider.servicer import make_server

    attached = not engine_address
    if not attached:
        logging.getLogger().addHandler(FileHandler())
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    log = EngineLog(interactive=attached or shows_terminal(engine))
    log.connect(engine_address)
    server, jobs = make_server(os.getcwd(), log)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    for name in added:
        # They are meant for this process; replicas inherit its environment.
        os.environ.pop(name, None)
    _say(port)
    gc.enable()
    threading.Thread(target=_warm_up, args=(jobs.warm_up,), daemon=True).start()
    watch = None if attached else asyncio.ensure_future(_gone(engine, stop))
    await stop.wait()
    if watch is not None:
        watch.cancel()
    # Ends the RPCs that still wait. Their runs go on.
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(server.stop(grace=None), STOP_SECONDS)
    await log.close()


def _say(port: int) -> None:
    """The port is the one thing that may ever be on stdout."""
    os.write(1, f"{port}\n".encode())
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _warm_up(load: object) -> None:
    with contextlib.suppress(Exception):  # said where it is needed
        assert callable(load)
        load()


async def _gone(engine: int, stop: object) -> None:
    """Set ``stop`` once the engine's process has ended: killed, it cannot say goodbye."""
    import asyncio

    assert isinstance(stop, asyncio.Event)
    try:
        handle = os.pidfd_open(engine)
    except (AttributeError, OSError):
        # Not Linux, an old kernel, or it is gone already.
        while os.getppid() == engine:  # noqa: ASYNC110 - nothing tells of it here
            await asyncio.sleep(1.0)
    else:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(handle, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
    stop.set()


if __name__ == "__main__":
    main()
