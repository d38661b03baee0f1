"""Tables, figures and the page, made from run directories alone."""

from lissome.report.comparison import compare
from lissome.report.listing import families, leaderboard, papers
from lissome.report.page import page
from lissome.report.ranks import terminal as ranks
from lissome.report.table import terminal, verdicts

__all__ = ["compare", "families", "leaderboard", "page", "papers", "ranks", "terminal", "verdicts"]
