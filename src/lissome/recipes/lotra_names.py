"""Names that the parts of LoTRA's replication share; loads neither torch nor anything heavy."""

FUNCTION, PDE, RATES = "function", "pde", "rates"  # parts
START, FULL = "start", "full"
RANKS = {"LoTRA 2": 2, "LoTRA 4": 4, "LoTRA 8": 8}
WAYS = {**dict.fromkeys(RANKS, "lotra"), FULL: "full", "last layer": "last", "scratch": "scratch"}  # -> of `adapt`
MODES = ("out", "basis", "in")
POLICIES = ("equal", "closed", "measured")
WIDTH = 32
WIDTHS = (16, 48, 128)  # of the sweep of rates
POINTS = (30, 100, 1000)
