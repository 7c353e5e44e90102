"""One HTML file that shows a finished run to a reader."""

from wsrl.extras import require

for _package in ("jinja2", "markupsafe", "matplotlib", "plotly", "sklearn"):  # or an error that names the extra
    require(_package, "report")

from wsrl.report.report import write_report  # noqa: E402

__all__ = ["write_report"]
