"""One HTML file that shows a finished run to a reader."""

from wsrl.report.report import write_report

__all__ = ["write_report"]
