"""Loaded by Python at the start of every process that is tried, from the folder on its PYTHONPATH. owpo knows nothing
of it, and it knows nothing of owpo.

CHAOS_STACKS  a path: on SIGTSTP the process appends its main thread's stack to <path>.<pid> and then stops, as it
              would have without this. Whoever kills it now knows to the line where it was.
CHAOS_CLOCK   "jumps": time.time() is now right, now a day ahead, now ten years behind, half a second each
CHAOS_FSIZE   largest size in bytes to which a file may grow (in place of a full disk)
"""

import faulthandler
import os
import resource
import signal
import time

if "CHAOS_STACKS" in os.environ:
    stacks = open(f"{os.environ['CHAOS_STACKS']}.{os.getpid()}", "ab", buffering=0)  # noqa: SIM115 - for good
    faulthandler.register(signal.SIGTSTP, file=stacks, all_threads=False, chain=True)

if "CHAOS_CLOCK" in os.environ:
    right_ns, start = time.time_ns, time.monotonic()
    DAY_NS = 86_400 * 10**9

    def jumping_ns() -> int:
        offset = (0, DAY_NS, -3653 * DAY_NS)[int(2 * (time.monotonic() - start)) % 3]
        return right_ns() + offset

    time.time_ns = jumping_ns
    time.time = lambda: jumping_ns() / 1e9

if "CHAOS_FSIZE" in os.environ:
    largest = int(os.environ["CHAOS_FSIZE"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
