"""What is run for SubLoRA, by name: members of families, states, and ways to half of the terms."""

from __future__ import annotations

from lissome.adapt.basis import BASES

# family -> its parameter, the member that the network is trained for, and the one that it is adapted to
FAMILIES = {"heat": ("kappa", 0.05, 0.2), "burgers": ("nu", 0.016, 0.064)}
START = "start"
CONVERGED, EARLY = "converged", "unconverged"
STATES = (CONVERGED, EARLY)
HALF = "half the rank from the start"
LONGER = "half the rank, for the steps of retuning too"
ADALORA, FASTER = "AdaLoRA of peft", "AdaLoRA of peft, 3 times the rate"
JOINT = {  # way -> rule, whether terms may come back
    "reverse": ("reverse", True),
    "reverse, cuts final": ("reverse", False),
    "sublora": ("sublora", True),
    "sublora, cuts final": ("sublora", False),
    "adalora": ("adalora", True),
    "adalora, cuts final": ("adalora", False),
}
PINN_WAYS = (*JOINT, HALF)
LANGUAGE_WAYS = ("reverse", "reverse, cuts final", "sublora", "adalora", ADALORA, FASTER, HALF, LONGER)
SAID = {basis: "as trained" if basis == "trained" else basis for basis in BASES}
