"""Every example of the documentation runs.

In README.md, README.ko.md and docs/**/*.md:

* each ```python block is run by itself, in a fresh interpreter, in an empty folder;
* each ```console block with a `$ manyhands ...` line is run by /bin/sh in an empty folder, all its `$ ` lines in turn (a line
  that begins with `> `, or follows a backslash, goes on with the one before). Where it shows output, that is compared: `...`
  stands for anything within a line, and for any lines when it stands alone. A command that is meant to fail is followed by
  `$ echo $?`;
* `<!-- not run: reason -->` on the line above a block leaves it out.

In the package's docstrings, each `>>>` example is run as a doctest.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from programs import Programs, python_args

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
PAGES = [path for path in (ROOT / "README.md", ROOT / "README.ko.md", *sorted(ROOT.glob("docs/**/*.md"))) if path.exists()]

BLOCK_TIMEOUT_S = 60.0
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^(?P=indent)```[ \t]*$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: \S.*-->\s*\Z")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a console block, and the output that the page shows for it."""

    command: str
    shown: tuple[str, ...]


def blocks_of(page: str) -> Iterator[Block]:
    """The blocks of a page, without those that say why they are not run."""
    for match in FENCE.finditer(page):
        before = page[: match.start()].rstrip(" ")
        if not NOT_RUN.search(before.removesuffix("\n")):
            lines = match["body"].splitlines()
            text = "".join(line.removeprefix(match["indent"]) + "\n" for line in lines)
            yield Block(match["language"], text, before.count("\n") + 1)


def steps_of(block: str) -> list[Step]:
    steps: list[tuple[list[str], list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            steps.append(([line[2:]], []))
        elif steps and not steps[-1][1] and (line.startswith("> ") or line == ">"):
            steps[-1][0].append(line[2:])
        elif steps and not steps[-1][1] and steps[-1][0][-1].endswith("\\"):
            steps[-1][0].append(line)
        elif steps:
            steps[-1][1].append(line)
    return [Step("\n".join(command), tuple(shown)) for command, shown in steps]


def uses_manyhands(block: Block) -> bool:
    return block.language == "console" and any(re.match(r"(\S+=\S* )*manyhands\b", step.command) for step in steps_of(block.text))


def looks_like(shown: tuple[str, ...], output: str) -> bool:
    pattern = ""
    for line in shown:
        pattern += r"(?:.*\n)*" if line.strip() == "..." else ".*".join(map(re.escape, line.rstrip().split("..."))) + r"[ \t]*\n"
    ended = output if output.endswith("\n") or not output else output + "\n"
    return re.fullmatch(pattern, ended) is not None


def blocks_where(language: str) -> list[object]:
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}:{block.line}")
        for page in PAGES
        for block in blocks_of(page.read_text(encoding="utf-8"))
        if (block.language == language == "python") or (language == "console" and uses_manyhands(block))
    ]


@pytest.fixture
def command_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH on which `manyhands` is this very package, installed or not."""
    folders = [str(Path(sys.executable).parent)]
    if shutil.which("manyhands", path=folders[0]) is None:
        folder = tmp_path_factory.mktemp("bin")
        (folder / "manyhands").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m manyhands "$@"\n')
        (folder / "manyhands").chmod(0o755)
        folders.insert(0, str(folder))
    return ":".join([*folders, "/usr/local/bin", "/usr/bin", "/bin"])


def run_steps(programs: Programs, steps: list[Step], path: str) -> None:
    """Run the commands in one shell, which keeps variables and `$?`; each one's output goes to a file of its own."""
    seen = programs.folder.with_name(programs.folder.name + "-seen")
    seen.mkdir()
    lines = []
    for number, step in enumerate(steps):
        lines += [f"{{ {step.command}\n}} > '{seen}/{number}.txt' 2>&1", f"(s=$?; echo $s > '{seen}/{number}.status'; exit $s)"]
    programs.run(["/bin/sh", "-c", "\n".join(lines)], timeout=BLOCK_TIMEOUT_S, env={"PATH": path})
    for number, step in enumerate(steps):
        output = (seen / f"{number}.txt").read_text(encoding="utf-8")
        is_status_shown = number + 1 < len(steps) and steps[number + 1].command == "echo $?"
        status = int((seen / f"{number}.status").read_text())
        if status and not is_status_shown:
            pytest.fail(f"$ {step.command}\n{output}\nended with {status}", pytrace=False)
        if step.shown and not looks_like(step.shown, output):
            shown = "\n".join(step.shown)
            pytest.fail(f"$ {step.command}\n\nthe page shows:\n{shown}\n\nit printed:\n{output}", pytrace=False)


@pytest.mark.parametrize("block", blocks_where("python"))
def test_a_python_example_runs(block: Block, programs: Programs, command_path: str) -> None:
    script = programs.write_script(block.text)
    programs.run(python_args(str(script)), timeout=BLOCK_TIMEOUT_S, env={"PATH": command_path}).succeeded()


@pytest.mark.parametrize("block", blocks_where("console"))
def test_a_console_example_runs(block: Block, programs: Programs, command_path: str) -> None:
    run_steps(programs, steps_of(block.text), command_path)


def modules_with_doctests() -> list[str]:
    files = [path for path in sorted(SOURCE.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__") for path in files]


@pytest.mark.parametrize("module", modules_with_doctests())
def test_the_examples_of_docstrings_run(module: str, programs: Programs) -> None:
    text = f"import doctest, importlib, sys; sys.exit(doctest.testmod(importlib.import_module({module!r})).failed)"
    programs.run(python_args("-c", text), timeout=BLOCK_TIMEOUT_S).succeeded()


PAGE = """
Text.

```python
print("하나")
```

<!-- not run: needs a cluster -->
```python
fail()
```

1. In a list:

   ```console
   $ manyhands run 'echo {}' \\
       ::: a
   a
   $ cat <<END
   > 1
   > END
   ```
"""


def test_blocks_are_found_with_their_lines() -> None:
    assert [(block.language, block.line) for block in blocks_of(PAGE)] == [("python", 4), ("console", 15)]


def test_a_console_block_is_read_as_commands_and_outputs() -> None:
    console = list(blocks_of(PAGE))[1]
    assert uses_manyhands(console)
    assert steps_of(console.text) == [
        Step("manyhands run 'echo {}' \\\n    ::: a", ("a",)),
        Step("cat <<END\n1\nEND", ()),
    ]


@pytest.mark.parametrize(
    ("shown", "output", "is_like"),
    [
        (("a", "b"), "a\nb\n", True),
        (("a", "b"), "a\nc\n", False),
        (("a",), "a\nb\n", False),
        (("a", "..."), "a\nb\nc\n", True),
        (("...", "z"), "z\n", True),
        (("took ... s (a+b)",), "took 0.1 s (a+b)\n", True),
        (("took ... s",), "took 0.1 s\nmore\n", False),
    ],
)
def test_shown_output_is_compared(shown: tuple[str, ...], output: str, is_like: bool) -> None:
    assert looks_like(shown, output) is is_like


def test_an_example_that_prints_something_else_fails(programs: Programs, command_path: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="the page shows:\nhello\n"):
        run_steps(programs, [Step("word=hullo", ()), Step("echo $word", ("hello",))], command_path)


def test_an_example_that_fails_must_say_so(programs: Programs, command_path: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="ended with 3"):
        run_steps(programs, [Step("(exit 3)", ())], command_path)


def test_an_example_may_show_the_status_of_a_failure(programs: Programs, command_path: str) -> None:
    run_steps(programs, [Step("(exit 3)", ()), Step("echo $?", ("3",))], command_path)
