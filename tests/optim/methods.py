"""Methods of every kind, for the tests of exact resumes."""

from lissome.optim import Group, Method

METHODS = {
    "adam": Method((Group("*", "adam", 0.02),), points=32, resample_every=4),
    "sgd": Method((Group("*", "sgd", 0.05, {"momentum": 0.9}),), points=32, schedule="exponential"),
    "lbfgs": Method((Group("*", "lbfgs", options={"max_iter": 3}),), points=32),
    "lbfgs, new points": Method((Group("*", "lbfgs", options={"max_iter": 2}),), points=32, resample_every=6),
    "two groups": Method(
        (Group("*.bias", "rmsprop", 0.01), Group("*", "adamw", 0.02)), points=32, resample_every=5, schedule="cosine"
    ),
    "adam and lbfgs": Method((Group("0.*", "adam", 0.01), Group("*", "lbfgs", options={"max_iter": 2})), points=32),
    "phases": (
        Method((Group("*", "adam", 0.02),), points=32, resample_every=3, schedule="cosine", share=0.5),
        Method((Group("*.bias", "none"), Group("*", "lbfgs", options={"max_iter": 2})), points=48, share=0.3),
        Method((Group("*", "nadam"),), points=16, resample_every=2, share=0.2),
    ),
}
METHODS |= {
    "gauss-newton": Method((Group("*", "gauss-newton"),), points=32, resample_every=2),
    "gauss-newton, adaptive": Method((Group("*", "gauss-newton"),), points=32, resample_every=3, adaptive=True),
    "adam, then gauss-newton": (
        Method((Group("*", "adam", 0.02),), points=32, resample_every=3, share=0.5),
        Method((Group("*", "gauss-newton", options={"damping": 1.0}),), points=32, share=0.5),
    ),
}
METHODS |= {
    name: Method((Group("*", name),), points=32, resample_every=3)
    for name in ("bfgs", "ssbfgs", "ssbroyden", "arc", "arcm")
}
