"""What the documents say, held against the code: examples, commands, outputs, links, files."""

import doctest
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main

from resrope.cli import app, main

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*GUIDES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"""\]\(([^)\s]+)\)|(?:src|href)="([^"]+)\"""")
FILE = re.compile(r"(?<![\w./-])(?:src|docs|tests|benchmarks|results)/[\w./*-]*\w")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page.name}:{self.line}"


def blocks(pages, *languages):
    found = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1] in languages:
                found.append(Block(page, text.count("\n", 0, match.start(2)) + 1, match[1], match[2]))
    return found


def steps(block):
    """[(command, what it printed)]; in a console block a command stands behind "$ "."""
    text = re.sub(r"\\\n\s*", "", block.text)
    if block.language == "console":
        parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
        return [tuple(part.partition("\n")[::2]) for part in parts]
    lines = (line.strip() for line in text.splitlines())
    return [(line, "") for line in lines if line and not line.startswith("#")]


def words(command):
    given = shlex.split(command, comments=True)
    return [Path(given[0]).name, *given[1:]] if given else []


SHELL = [
    (b, command, out) for b in blocks(PAGES, "sh", "console", "bash", "shell") for command, out in steps(b)
]
COMMANDS = [(block, words(command)) for block, command, _ in SHELL]
PRINTED = [
    (block, words(command), out)
    for block, command, out in SHELL
    if block.page.parent.name == "docs" and out.strip() and words(command)[0] == "resrope"
]


def ids(cases):
    return [" ".join([str(block), *command[:3]]) for block, command, *_ in cases]


@pytest.mark.usefixtures("stock_rope_types")
@pytest.mark.parametrize("block", blocks(GUIDES, "python"), ids=str)
def test_python_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "\n" * (block.line - 1) + block.text  # so that a traceback shows the page's own lines
    exec(compile(source, str(block.page), "exec"), {"__name__": "__main__"})


def test_the_guides_have_examples():
    assert len(blocks(GUIDES, "python")) >= 8
    assert len(PRINTED) >= 2


def parse(command, arguments):
    """Parse as the command line would, subcommands too, without calling any."""
    try:
        context = command.make_context(command.name, list(arguments))
    except Exception as error:
        if type(error).__name__ == "Exit":  # --help and --version
            return
        raise
    if hasattr(command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", []), *context.args]
        _, subcommand, rest = command.resolve_command(context, rest)
        parse(subcommand, rest)


RESROPE = [(block, command) for block, command in COMMANDS if command[:1] == ["resrope"]]
MAKE = [(block, command) for block, command in COMMANDS if command[:1] == ["make"]]


@pytest.mark.parametrize(("block", "command"), RESROPE, ids=ids(RESROPE))
def test_resrope_command_parses(block, command):
    parse(typer.main.get_command(app), command[1:])


@pytest.mark.parametrize(
    "arguments", [["posgen", "run", "--no-such-option"], ["no-such-command"], ["posgen", "show", "--j", "x"]]
)
def test_parse_refuses_what_the_command_line_refuses(arguments):
    with pytest.raises(Exception) as error:  # noqa: PT011 - its class moves between versions of typer
        parse(typer.main.get_command(app), arguments)
    assert hasattr(error.value, "format_message")


@pytest.mark.parametrize(("block", "command"), MAKE, ids=ids(MAKE))
def test_make_target_exists(block, command):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert next(word for word in command[1:] if "=" not in word) in targets


@pytest.mark.parametrize(("block", "command", "out"), PRINTED, ids=ids(PRINTED))
def test_command_prints_what_is_shown(block, command, out, tmp_path, monkeypatch, capsys):
    """Of the commands that train nothing; "..." stands for anything left out."""
    if command[1:3] in (["posgen", "run"], ["posgen", "report"]):
        pytest.skip("trains, or needs a trained run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(command[1:])
    printed = capsys.readouterr()
    assert exit_.value.code == (2 if out.startswith("error:") else 0)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    got = (printed.out + printed.err).strip() + "\n"
    assert doctest.OutputChecker().check_output(out.strip() + "\n", got, flags), got


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page):
    text = page.read_text(encoding="utf-8")
    links = [a or b for a, b in LINK.findall(text)]
    local = [link for link in links if not re.match(r"[a-z]+:|#|data:", link)]
    missing = [link for link in local if not (page.parent / link.partition("#")[0]).exists()]
    missing += [name for name in FILE.findall(text) if not list(ROOT.glob(name))]
    assert not missing


def anchors(page):
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_exist(page):
    links = re.findall(r"\]\(([^)\s:]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    missing = [
        f"{name}#{anchor}"
        for name, anchor in links
        if anchor not in anchors(page.parent / name if name else page)
    ]
    assert not missing


def test_architecture_names_every_module_and_no_other():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"^- `([\w/]+\.py)`: \S", text, re.MULTILINE)
    package = ROOT / "src" / "resrope"
    there = {p.relative_to(package).as_posix() for p in package.rglob("*.py") if p.name != "__init__.py"}
    assert sorted(named) == sorted(there)
