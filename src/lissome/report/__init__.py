"""Tables, figures and the page, made from run directories alone."""

from lissome.report.comparison import compare
from lissome.report.diagnosis import terminal as diagnosis
from lissome.report.listing import families, leaderboard, papers
from lissome.report.page import page
from lissome.report.ranks import terminal as ranks
from lissome.report.table import terminal, verdicts
from lissome.report.table_page import table_page, table_terminal

__all__ = [
    "compare",
    "diagnosis",
    "families",
    "leaderboard",
    "page",
    "papers",
    "ranks",
    "table_page",
    "table_terminal",
    "terminal",
    "verdicts",
]
