"""README.md, docs/ and cluster/README.md: links lead somewhere, commands parse, generated pages are up to date."""

import argparse
import importlib
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from PIL import Image
from repository import FILES, FOLDERS, ROOT
from tiny_experiment import TINY_RUN

from docs.make_configuration import FILE, comments_of, make_page
from reid_core.cli import parse_fixed
from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from sweeps.search.search_flag import parse_searched

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "cluster" / "README.md"]
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)|<img src=\"([^\"]+)\"")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"(?:^|-- |/)(?:python|cluster/submit\.sh) (-m [\w.]+|\w+/\w+\.py)(.*)")


def name_of(page: Path) -> str:
    """A page's name in the output of a test."""
    return page.relative_to(ROOT).as_posix()


def read_prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", read_prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(page: Path) -> list[str]:
    """What a page links to, and the images that it shows; not what lies on other servers."""
    targets = ["".join(found) for found in LINK.findall(read_prose(page))]
    return [target for target in targets if not target.startswith("https://")]


def commands_of(page: Path) -> list[tuple[str, list[str]]]:
    """Module and arguments of every Python command in the shell blocks of a page, but for those that are cut short."""
    blocks = [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language == "bash"]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = []
    for line in lines:
        match = PYTHON.search(line)
        if match and "…" not in line:
            module = match[1].removeprefix("-m ").removesuffix(".py").replace("/", ".")
            module = f"{module}.__main__" if module == "reid_core" else module
            found.append((module, shlex.split(match[2], comments=True)))
    return [(module, arguments) for module, arguments in found if module.split(".")[0] in FOLDERS]


COMMANDS = sorted({(module, tuple(arguments)) for page in PAGES for module, arguments in commands_of(page)})


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target in links_of(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors_of(file), target


def test_links_are_recognised():
    assert {"docs/overview.png", "LICENSE", "docs/sweeps.md#flags"} <= set(links_of(ROOT / "README.md"))
    assert len(anchors_of(ROOT / "docs" / "architecture.md")) > 20


def test_every_page_can_be_found_from_the_index():
    index = ROOT / "docs" / "README.md"
    found = {(index.parent / target.partition("#")[0]).resolve() for target in links_of(index)}
    assert found >= {page for page in PAGES if page != index}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_plain_words(page):
    assert not re.findall(r"\btold\b", page.read_text(encoding="utf-8"))


def test_the_reference_of_the_configuration_is_up_to_date():
    assert FILE.read_text(encoding="utf-8") == make_page(), "run python docs/make_configuration.py"


@dataclass
class Commented:
    """A part of a configuration."""

    # of the whole
    # batch
    batch: int = 1  # images
    plain: int = 2
    scale: Annotated[int, "or"] = 3  # behind


def test_comments_above_and_behind_a_field_are_its_meaning():
    assert comments_of(Commented) == {"batch": "of the whole batch images", "scale": "behind"}


def test_the_map_names_every_file_of_the_program():
    page = ROOT / "docs" / "architecture.md"
    listed = [target.removeprefix("../") for target in links_of(page) if target.endswith(".py")]
    program = {name_of(path) for name, path in FILES.items() if name.split(".")[0] in ("reid_core", "sweeps")}
    files = {name for name in program if not name.endswith("__init__.py")}
    assert files - set(listed) == set(), "files without a line in the map"
    assert set(listed) - files == set(), "lines in the map without a file"
    assert len(listed) == len(files)


def test_commands_are_recognised():
    modules = {module for module, _ in COMMANDS}
    assert modules >= {"reid_core.__main__", "reid_core.predict", "sweeps.metric", "sweeps.paper", "reid_core.wildlife"}


class ParsedError(Exception):
    """Raised in the place of what a command would do."""


@pytest.mark.parametrize(("module", "arguments"), COMMANDS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_is_understood(module, arguments, monkeypatch):
    parse_args = argparse.ArgumentParser.parse_args

    def parse_only(parser, *given):
        raise ParsedError(parse_args(parser, *given))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(ParsedError) as parsed:
        importlib.import_module(module).main()
    options = parsed.value.args[0]
    config = override(TrialConfig(), parse_fixed(getattr(options, "set", [])))
    parse_searched(getattr(options, "search", []), config)


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`make ([\w-]+)`", page.read_text(encoding="utf-8"))}
    assert named >= {"demo", "test"}
    assert named <= targets


def test_the_overview_is_drawn(tmp_path):
    from docs import draw_overview

    file = draw_overview.main(scale=0.2, flags=[*TINY_RUN, "--seed", "3"], file=tmp_path / "overview.png")
    with Image.open(file) as drawn, Image.open(draw_overview.FILE) as shown:
        assert drawn.size == shown.size == (1200, 1200)
        assert len(drawn.convert("RGB").getcolors(2**24)) > 1000, "photographs, not a blank page"
