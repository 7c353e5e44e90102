"""The page as text: the template with the content in it."""

import json
from collections.abc import Mapping
from importlib.resources import files

MARK = "CONTENT"  # in the template, in place of the content
UNSAFE = "<>&\u2028\u2029"  # in JSON within a script element


def page_html(content: Mapping[str, object], live: bool = False) -> str:
    """Returns one self-contained HTML page: styles, script and data stand in it, and it loads nothing.

    Args:
      content: see `wsrl.page.content.page_content`.
      live: the page is served by `wsrl serve`, which it asks for neighbors and for searches by uploaded files.
    """
    text = json.dumps({**content, "live": live}, ensure_ascii=False, separators=(",", ":"))
    for sign in UNSAFE:
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return files("wsrl.page").joinpath("page.html").read_text(encoding="utf-8").replace(MARK, text)
