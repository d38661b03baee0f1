"""What `lissome lm train` is asked, as small as it gets."""

SIZES = {"model.layers": 1, "model.width": 16, "model.heads": 2, "scored": 64}
SMALL = SIZES | {"length": 16, "batch": 4, "training.steps": 6}
TINY = [word for key, value in SIZES.items() for word in ("--set", f"{key}={value}")]
TINY += ["--length", "16", "--batch", "4", "--steps", "6"]
STAGES = {"model.position": "kerple", "model.refine": "dape(3)", "model.normalize": "self_adjust(4)"}


def ask(text, out, *more):
    return ["lm", "train", text, *TINY, "--out", out, *more]
