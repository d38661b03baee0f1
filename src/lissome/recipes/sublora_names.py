"""What is run for SubLoRA, by name: members of families, states, and ways to half of the terms."""

from __future__ import annotations

from lissome.adapt.basis import BASES

# family -> its parameter, the member that the network is trained for, and the one that it is adapted to
FAMILIES = {"heat": ("kappa", 0.05, 0.2), "burgers": ("nu", 0.016, 0.064)}
START = "start"
CONVERGED, EARLY = "converged", "unconverged"
STATES = (CONVERGED, EARLY)
FINAL, TURNED = ", cuts final", ", cuts final, turned"
HALF = "half the rank from the start"
LONGER = "half the rank, for the steps of retuning too"
ADALORA, FASTER = "AdaLoRA of peft", "AdaLoRA of peft, 3 times the rate"
ANEW = "half the rank, the optimizer anew as often"
PAPERS, LORA = "adalora", "lora"  # P diag(s) Q with s = 0 at the start, and B A with B = 0
JOINT = {  # way -> rule, whether terms may come back, basis
    f"{rule}{said}": (rule, regrow, basis)
    for rule in ("reverse", "sublora", "adalora")
    for said, regrow, basis in (("", True, "trained"), (FINAL, False, "trained"), (TURNED, False, "kronecker"))
}
PINN_WAYS = (*JOINT, HALF, ANEW)
# terms that come back are looked at by one rule: on language models they cost
LANGUAGE_WAYS = ("reverse", *(way for way in JOINT if FINAL in way), ADALORA, FASTER, HALF, ANEW, LONGER)
SAID = {basis: "as trained" if basis == "trained" else basis for basis in BASES}
