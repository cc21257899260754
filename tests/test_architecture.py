"""The house: which room may import which, how large a file may be, and that the docs' links lead somewhere."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "owpo"

# docs/architecture.md, from the ground up: a room and the rooms it may import.
MAY_IMPORT = {
    "core": set(),
    "errors": set(),
    "seeds": set(),
    "printable": set(),
    "clock": set(),
    "stop": {"errors"},
    "disk": {"errors"},
    "problems": {"core"},
    "verify": set(),
    "policy": {"core"},
    "bases": {"core", "problems"},
    "engines": {"errors", "policy", "seeds"},
    "evaluation": {"clock", "disk", "engines", "errors", "policy", "problems", "verify"},
    "config": {"core", "bases", "problems"},
    "recipes": {"core", "config", "disk", "errors"},
    "problem_sets": {"config", "errors", "policy", "problems", "verify"},
    "evaluation_sets": {"config", "core", "errors", "problem_sets", "problems", "verify"},
    "recipe_page": {"config"},
    "estimate": {"bases", "config", "core", "errors", "policy"},
    "runs": {"config", "disk", "errors", "policy", "recipes"},
    "training": {
        "clock",
        "config",
        "core",
        "engines",
        "errors",
        "evaluation",
        "policy",
        "problems",
        "runs",
        "seeds",
        "stop",
        "verify",
    },
    "ratchet": {
        "config",
        "disk",
        "errors",
        "evaluation",
        "hosting",
        "policy",
        "problems",
        "runs",
        "seeds",
        "training",
    },
    "expectation": {
        "config",
        "core",
        "disk",
        "engines",
        "errors",
        "evaluation",
        "evaluation_sets",
        "policy",
        "problem_sets",
        "problems",
        "recipes",
        "runs",
        "seeds",
        "training",
    },
    "run": set(),  # everything below it
    "scores": set(),
    "exporting": set(),
    "terminal": {"evaluation", "printable", "training"},
    "report": {"config", "core", "disk", "errors", "evaluation", "ratchet", "runs"},
    "study": {
        "bases",
        "config",
        "core",
        "disk",
        "errors",
        "evaluation",
        "hosting",
        "ratchet",
        "recipes",
        "report",
        "run",
        "runs",
        "stop",
    },
    "watching": {"printable", "report"},
    "hosts": {"config", "core", "disk", "errors", "policy", "verify"},
    "hosting": {"config", "disk", "errors", "hosts", "policy", "problems", "runs", "stop", "training"},
    "cli": set(),
}
ABOVE_ALL = {"run", "scores", "exporting", "cli", "__init__", "__main__"}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [
                f"{node.module}.{alias.name}" if node.module == "owpo" else node.module
                for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("owpo.")}
    return rooms - {room_of(path)}


def test_imports_run_downwards():
    wrong = [
        f"{path.relative_to(ROOT)} imports {room}"
        for path in modules()
        if room_of(path) not in ABOVE_ALL
        for room in imported_rooms(path)
        if room not in MAY_IMPORT[room_of(path)]
    ]
    assert wrong == []


def test_nothing_imports_the_command_line():
    assert [path for path in modules() if room_of(path) != "__main__" and "cli" in imported_rooms(path)] == []


def test_files_and_functions_stay_readable():
    long = []
    for path in modules():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            long.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 80:
                long.append(f"{path.name}: {node.name}")
    assert long == []


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert [target for target in targets if not (page.parent / target).exists()] == []
    for name, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", text):
        other = (page.parent / name).read_text(encoding="utf-8") if name else text
        headings = {
            re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", other, flags=re.MULTILINE)
        }
        assert anchor in headings
