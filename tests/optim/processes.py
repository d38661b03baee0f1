"""Trainings in several processes, for tests: a nursery that forks them, and a program for a launcher.

Each line of the input is the settings of one training in JSON (see `train`). It is trained in so many processes, forked
so that torch is imported once. Lines of the output: `pids ...` when they begin, what rank 0 has to say, `exit ...` when
all have ended. Called with settings as its argument, it trains where a launcher has put it, and writes what it says.
"""

import functools
import json
import os
import socket
import sys
import time
import traceback
from pathlib import Path

import torch

from lissome._errors import LissomeError
from lissome.optim import Budget, Group, Method, fit, machine
from lissome.optim.checkpoint import exists
from tests.optim.problems import Sine, network
from tests.optim.words import Decoder, Words

GROUPS = (Group("*norm*", "adamw", 0.02, {"weight_decay": 0.0}), Group("*", "adamw", 0.02, {"weight_decay": 0.3}))
USUAL = {"points": 12, "resample_every": 1, "clip": 0.5, "warmup": 0.25, "schedule": "cosine"}


class Borrowed(torch.nn.Module):
    """A model that computes with the weights of its blocks without calling them."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Decoder()])

    def forward(self, tokens):
        weights = {name: p + 0 for name, p in self.blocks[0].named_parameters()}
        return torch.nn.functional.linear(weights["embedding.weight"][tokens], weights["head.weight"])


class Adapter(torch.nn.Module):
    """A frozen model with a small change of one weight, put there by `functional_call`."""

    def __init__(self, path="blocks.0.up.weight"):
        super().__init__()
        self.path, self.base = path, Decoder().requires_grad_(False)
        self.change = torch.nn.Parameter(torch.zeros_like(self.base.get_parameter(path)))

    def forward(self, tokens):
        weights = {self.path: self.base.get_parameter(self.path) + self.change}
        return torch.func.functional_call(self.base, weights, (tokens,))


class Idle(Decoder):
    """Has a parameter that it does not use."""

    def __init__(self):
        super().__init__()
        self.idle = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))


class Dropped(Decoder):
    """Random in training."""

    def forward(self, tokens):
        return torch.nn.functional.dropout(super().forward(tokens), 0.2, self.training)


MODELS = {"decoder": Decoder, "borrowed": Borrowed, "adapter": Adapter, "idle": Idle, "dropped": Dropped}
MODELS |= {"outer": lambda: Adapter("embedding.weight"), "sine": network}


def train(settings):
    """Train: directory, method (changes), optimizer, model, steps, stop, sleep, spoilt, precision, compile, last."""
    directory = settings["directory"]
    kind = settings.get("model", "decoder")
    groups = (Group("*", settings["optimizer"]),) if "optimizer" in settings else GROUPS
    how = Method(groups, **(USUAL | settings.get("method", {})))
    model, options = MODELS[kind](), {name: settings[name] for name in ("precision", "compile") if name in settings}
    if settings.get("last"):
        options["parameters"] = {name: p for name, p in model.named_parameters() if name.startswith("blocks.1")}

    def on_step(step, model):
        time.sleep(settings.get("sleep", 0.0))
        if step == settings.get("spoilt") and os.environ["RANK"] == "1":
            with torch.no_grad():
                next(model.parameters()).to_local().fill_(float("nan"))
        return step == settings.get("stop")

    result = fit(
        model,
        Sine() if kind == "sine" else Words(),
        how,
        Budget(steps=settings.get("steps", 12)),
        directory=directory,
        evaluate_every=4,
        checkpoint_every=3,
        seed=3,
        progress=False,
        resume=exists(Path(directory) / "checkpoint"),
        on_step=on_step,
        **options,
    )
    sharded = (
        sum(p.numel() for p in model.parameters()),
        sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in model.parameters()),
    )
    told = {"resumed_from": result.resumed_from, "capture": result.capture}
    return {"history": list(result.history), "numbers": sharded, **told}


def child(rank, settings, port):
    count = settings.get("processes", 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **settings.get("environment", {})}
    if count == 1:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            del os.environ[name]
    torch.set_num_threads(1)
    if "bucket" in settings:
        machine.buckets = functools.partial(machine.buckets, size=settings["bucket"])
    try:
        said, code = train(settings), 0
    except LissomeError as error:
        said, code = {"error": str(error)}, error.exit_code
    if rank == 0:
        print("said", json.dumps(said), flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return code


def nursery():
    for line in sys.stdin:
        settings = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pids = []
        for rank in range(settings.get("processes", 2)):
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    code = child(rank, settings, port)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            pids.append(pid)
        print("pids", *pids, flush=True)
        print("exit", *[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids], flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        settings = json.loads(sys.argv[1])
        Path(settings["directory"], f"said.{os.environ['RANK']}.json").write_text(json.dumps(train(settings)))
    else:
        nursery()
