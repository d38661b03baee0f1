"""Tables, figures and the page, made from run directories alone."""

from lissome.report.comparison import compare
from lissome.report.diagnosis import terminal as diagnosis
from lissome.report.incontext import incontext_page, incontext_terminal
from lissome.report.inventory import inventory_page, inventory_terminal, tally
from lissome.report.language import language_page, language_terminal
from lissome.report.language_comparison import language_comparison
from lissome.report.listing import families, leaderboard, papers
from lissome.report.page import page
from lissome.report.ranks import terminal as ranks
from lissome.report.stream import stream_page, stream_terminal
from lissome.report.table import terminal, verdicts
from lissome.report.table_page import table_page, table_terminal

TERMINALS = {  # kind of a run -> what the terminal shows of its rows
    "fit": table_terminal,
    "icl": incontext_terminal,
    "lm": language_terminal,
    "stream": stream_terminal,
}

__all__ = [
    "TERMINALS",
    "compare",
    "diagnosis",
    "families",
    "incontext_page",
    "incontext_terminal",
    "inventory_page",
    "inventory_terminal",
    "language_comparison",
    "language_page",
    "language_terminal",
    "leaderboard",
    "page",
    "papers",
    "ranks",
    "stream_page",
    "stream_terminal",
    "table_page",
    "table_terminal",
    "tally",
    "terminal",
    "verdicts",
]
