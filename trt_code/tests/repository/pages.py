"""The pages of the documentation, and the commands in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


PAGES = sorted(
    page
    for folder in ("", "doc", "docker", "plugin_attrs_issue", "data_model/demo")
    for page in (ROOT / folder).glob("*.md")
)


def code(page: Path) -> str:
    """Return the code on a page: indented lines, fenced blocks, spans in backticks."""
    text = page.read_text(encoding="utf-8")
    parts = re.findall(r"```.*?\n(.*?)```", text, re.DOTALL)
    parts += re.findall(r"^ {4,}\S.*$", text, re.MULTILINE)
    parts += re.findall(r"(?<!`)`([^`]+)`(?!`)", text)
    return "\n".join(parts)


def command_lines(start: str) -> list[str]:
    """Return the command lines of all pages that start with this, without comments and pipes."""
    found = set()
    for page in PAGES:
        if page.parent.name == "plugin_attrs_issue" and start == "make":
            continue
        joined = code(page).replace("\\\n", " ")
        for line in re.findall(rf"(?:^|[\s`$])({start}(?: .*|$))", joined, re.MULTILINE):
            line = re.sub(r"\s+#.*|\s+(?:[|&;]|[<>] ).*|\s*\(.*", "", line.strip())
            found.add(line)
    return sorted(found)
