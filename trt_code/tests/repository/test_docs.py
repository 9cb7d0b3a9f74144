"""The documents' links, make targets, modules and flags exist."""

import argparse
import ast
import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from train_model.models.architectures import ARCHITECTURES
from trt_code.tests.repository.pages import PAGES, ROOT, code, command_lines

TARGETS = set(
    " ".join(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)).split()
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def sections(page):
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_sections(page):
    links = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    missing = [
        f"{link}#{section}"
        for link, section in links
        if "://" not in link
        and (link == "" or link.endswith(".md"))
        and section not in sections(page.parent / link if link else page)
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page):
    if page.parent.name == "plugin_attrs_issue":
        pytest.skip("has its own Makefile")
    named = {
        word
        for command in re.findall(
            r"(?:^|[\s;&|])make ((?:[a-z][a-z0-9-]*\*? ?)+)", code(page), re.MULTILINE
        )
        for word in command.split()
    }
    families = {target.rpartition("-")[0] + "-*" for target in TARGETS}
    assert named <= TARGETS | families


class Parsed(Exception):
    """The parser took the command line."""


@pytest.mark.parametrize(
    "line", command_lines(r"python3? -m (?:train_model|onnx_export|trt_code)\.\S+")
)
def test_parsers_accept_the_commands(line, monkeypatch, capsys):
    _, _, module, *words = shlex.split(line)
    parse = argparse.ArgumentParser.parse_args

    def stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    main = importlib.import_module(module).main
    if not words:  # only mentions the program
        words = ["--help"]
    try:
        with pytest.raises((Parsed, SystemExit)) as left:
            main(words)
    finally:
        printed = capsys.readouterr()
    if left.type is SystemExit:
        assert left.value.code == 0, printed.err


@pytest.mark.parametrize("line", command_lines(r"python3? [a-z_/]+\.py"))
def test_scripts_exist(line):
    assert (ROOT / line.split()[1]).is_file()


@pytest.mark.parametrize("line", command_lines("make"))
def test_make_has_rules_for_every_target(line):
    """A dry run: the targets exist, and so do rules for their prerequisites."""
    words = [word for word in shlex.split(line)[1:] if "..." not in word and "PYTHON=" not in word]
    # the files that the pages import; the committed models exist
    words = [re.sub("^MODEL=(mine|retrained)$", "MODEL=demo", word) for word in words]
    if any("*" in word for word in words):
        pytest.skip("a family of targets")
    made = subprocess.run(
        ["make", "-n", f"PYTHON={sys.executable}", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr


def test_every_figure_is_drawn_by_the_script_and_shown(tmp_path):
    script = runpy.run_path(str(ROOT / "doc" / "figures" / "draw.py"))
    drawn = {f"{name}.png" for name in script["FIGURES"]}
    assert drawn == {path.name for path in (ROOT / "doc" / "figures").glob("*.png")}
    shown = set(re.findall(r"\]\((?:doc/)?figures/([^)]+)\)", "".join(map(Path.read_text, PAGES))))
    assert drawn == shown
    script["draw"](["crf_decode", "dynamic_conv"], tmp_path / "once")
    script["draw"](["crf_decode", "dynamic_conv"], tmp_path / "twice")
    for name in ("crf_decode.png", "dynamic_conv.png"):
        once = (tmp_path / "once" / name).read_bytes()
        assert once.startswith(b"\x89PNG")
        assert once == (tmp_path / "twice" / name).read_bytes()


def skeleton(page: Path) -> dict[str, list[str]]:
    """Return the parts of a page that a translation shares with its original."""
    text = page.read_text(encoding="utf-8")
    printed = re.findall(r"^```.*?^```", text, re.M | re.S)
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    tables = [re.findall(r"\d+(?:\.\d+)+", row) for row in re.findall(r"^\|.*", text, re.M)]
    return {
        "headings": re.findall(r"^#+", text, re.M),
        "commands": re.findall(r"^ {4,}([^#\n]*[^#\s])", text, re.M),
        "links": [
            link
            for link in re.findall(r"\]\(([^)]+)\)", text)
            if link not in ("README.md", "README.zh-CN.md")
        ],
        "output": printed,
        "names": sorted(re.findall(r"`([^`]+)`", text)),
        "numbers in tables": [" ".join(row) for row in tables],
    }


def test_the_translation_keeps_in_step():
    original, translation = skeleton(ROOT / "README.md"), skeleton(ROOT / "README.zh-CN.md")
    assert original["commands"]
    for part, found in original.items():
        assert translation[part] == found, f"README.zh-CN.md has other {part} than README.md"


def messages() -> set[str]:
    """Return the strings of the code, whole and split at ``;``, with a wildcard for each value."""
    found = set()
    for folder in ("train_model", "onnx_export", "trt_code"):
        for path in (ROOT / folder).rglob("*.py"):
            if "tests" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    values = [getattr(part, "value", None) for part in node.values]
                elif isinstance(node, ast.Constant):
                    values = [node.value]
                else:
                    continue
                text = "".join(value if isinstance(value, str) else "\0" for value in values)
                text = text.replace("`", "")
                found |= {text, *text.split("; ")}
    for path in (ROOT / "Makefile", ROOT / "download.sh"):
        found |= set(re.findall(r'"(?:error: )?([^";]+)', path.read_text(encoding="utf-8")))
    return {text for text in found if len(text.replace("\0", "")) >= 8}


def test_explained_messages_occur_in_the_code():
    page = (ROOT / "doc" / "troubleshooting.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\*\*`([^`]+)`\*\*", page, re.M)
    assert len(explained) > 20
    patterns = [re.compile(re.escape(text).replace("\0", ".*")) for text in messages()]
    unknown = [
        part
        for message in explained
        for part in re.sub("^(error|not run|Bad): ", "", message).split("; ")
        if not any(pattern.fullmatch(part) for pattern in patterns)
    ]
    assert not unknown


def test_the_readme_names_every_architecture():
    """The table of networks is complete, and has no network that the registry lacks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Which networks\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == set(ARCHITECTURES)
