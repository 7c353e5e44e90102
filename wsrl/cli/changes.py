"""What a command did to an index: one line for people, a record for programs."""

from typing import TYPE_CHECKING

from wsrl.cli.output import Output, tell, tell_left_out, tell_skipped
from wsrl.text import bytes_text, counted

if TYPE_CHECKING:
    from wsrl.search.index import Index


def report(output: Output, index: "Index") -> int:
    """Prints what the index holds and what was done to it; returns the exit status: 1 if weights were not read."""
    info, changes = index.info(), index.changes
    tell_skipped(changes.skipped)
    tell_left_out(changes.problems)
    for sentence in changes.incomplete:
        tell(sentence)
    counts = {key: getattr(changes, key) for key in ("embedded", "unchanged", "removed")}
    counts["left_out"] = len(changes.problems)
    done = ", ".join(f"{count:,} {key.replace('_', ' ')}" for key, count in counts.items())
    size = bytes_text(int(str(info["bytes"])))
    held = f"{counted(int(str(info['models'])), 'model')}, {info['functions']:,} with a function vector, {size}"
    problems = [str(problem) for problem in changes.problems]
    output.summary({**info, **counts, "problems": problems}, f"{index.directory}: {held}; {done}")
    return 1 if changes.incomplete else 0
