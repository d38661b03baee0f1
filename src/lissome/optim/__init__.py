"""What moves parameters: methods as data, one loop, exact checkpoints."""

from lissome.optim.fit import fit
from lissome.optim.least_squares import GaussNewton
from lissome.optim.memory import keep_memory
from lissome.optim.method import Budget, Group, Method, Outcome, Result

__all__ = ["Budget", "GaussNewton", "Group", "Method", "Outcome", "Result", "fit", "keep_memory"]
