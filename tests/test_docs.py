"""Links of the README and the other pages lead somewhere; blocks name their language, and their Python exists."""

import ast
import re
from pathlib import Path

import pytest

import wsrl

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def links(text: str) -> list[str]:
    """Targets of links and images, outside of blocks and of inline code."""
    prose = re.sub(r"`[^`\n]*`", "", BLOCK.sub("", text))
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Relative links of a page to files or headings that are not there."""
    broken = []
    for link in links(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_is_broken(page):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_names_its_language(page):
    opening = [block.split("\n")[0] for block in BLOCK.findall(page.read_text())]
    assert all(len(line) > 3 for line in opening), opening


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_uses_what_the_package_exports(page):
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)]
        used = {node.attr for node in names if isinstance(node.value, ast.Name) and node.value.id == "wsrl"}
        assert used and used <= set(dir(wsrl)), code


def test_the_readme_leads_to_every_page():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(PAGES[0].read_text()) if "://" not in link}
    assert set(PAGES[1:]) <= linked


def test_the_inspected_file_is_shown_as_it_is_printed():
    printed = (ROOT / "tests" / "golden" / "inspect_mlp.txt").read_text()
    assert f"```text\n{printed}```" in (ROOT / "docs" / "checkpoints.md").read_text()


def test_the_readme_is_short():
    assert len(PAGES[0].read_text().splitlines()) <= 160


def test_broken_links_are_detected(tmp_path):
    (tmp_path / "a.md").write_text(
        "# One Thing: `x` (2)\n[b](b.md) [a](#one-thing-x-2) [gone](c.md) [no](b.md#no) [out](https://x.org/y)\n"
        "`[code](d.md)`\n```text\n[block](e.md)\n# no heading\n```\n[h](#no-heading)\n"
    )
    (tmp_path / "b.md").write_text("![picture](none.svg)\n")
    assert broken_links(tmp_path / "a.md") == ["c.md", "b.md#no", "#no-heading"]
    assert broken_links(tmp_path / "b.md") == ["none.svg"]
