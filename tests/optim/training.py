"""A nursery of small trainings, for tests that kill them.

Each line of the input, `[directory, kind, sleep]` in JSON, is trained in a child process, forked so that torch is
imported once. Lines of the output: `pid N` when a child begins, its error if any, and `exit N` when it ended.
"""

import json
import os
import sys
import time
from pathlib import Path

from lissome._errors import LissomeError
from lissome.optim import Budget, fit
from lissome.optim.checkpoint import exists
from tests.optim.methods import METHODS
from tests.optim.problems import Sine, network


def train(directory: str, kind: str, sleep: float) -> int:
    print("pid", os.getpid(), flush=True)
    try:
        fit(
            network(),
            Sine(),
            METHODS[kind],
            Budget(steps=60),
            seed=3,
            directory=directory,
            evaluate_every=7,
            checkpoint_every=5,
            resume=exists(Path(directory) / "checkpoint"),
            on_step=lambda step, model: time.sleep(sleep),
        )
    except LissomeError as error:
        print(error, flush=True)
        return error.exit_code
    return 0


for line in sys.stdin:
    child = os.fork()
    if not child:
        os._exit(train(*json.loads(line)))
    print("exit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
