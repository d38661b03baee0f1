"""What moves parameters: methods as data, one loop, exact checkpoints."""

from lissome.optim.arc import ARC
from lissome.optim.fit import fit
from lissome.optim.least_squares import GaussNewton
from lissome.optim.memory import keep_memory
from lissome.optim.method import Budget, Group, Method, Outcome, Result
from lissome.optim.quasi_newton import QuasiNewton

__all__ = ["ARC", "Budget", "GaussNewton", "Group", "Method", "Outcome", "QuasiNewton", "Result", "fit", "keep_memory"]
