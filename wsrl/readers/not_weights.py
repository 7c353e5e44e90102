"""Says what a file is that has a model's name and is none: a pointer, a web page, the text of an error."""

POINTER = b"version https://git-lfs.github.com/spec/"  # https://github.com/git-lfs/git-lfs, docs/spec.md
PAGES = (b"<!doctype html", b"<html", b"<?xml")
SHORT = 512  # bytes of an answer that is shown
SHOWN = 60  # characters


def explain(head: bytes) -> tuple[str, str] | None:
    """Returns what a file is and what to do about it; None if nothing is known.

    Args:
      head: how it begins.
    """
    if head.startswith(POINTER):
        return "is a pointer of git-lfs, not the file itself", "run `git lfs pull` in its repository"
    if head.lstrip()[:64].lower().startswith(PAGES):
        return "is a web page, not a model", "download it again; its address may ask for a login or a confirmation"
    try:
        text = str(head, "utf-8").strip()
    except UnicodeDecodeError:
        return None
    if len(head) < SHORT and text.isprintable() and text:
        return f"is the text {text[:SHOWN]!r}, not a model", "download it again"
    return None
