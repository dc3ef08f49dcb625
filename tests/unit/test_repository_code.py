"""Sizes, layers and hygiene of what git tracks."""

import ast
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 400
PACKAGES = ("config", "dashboard", "db", "dicom_node", "firstread", "instances", "migrations", "phantoms", "reports",
            "training", "worker")  # fmt: skip
TEXT = {".py", ".ts", ".js", ".mjs", ".html", ".css", ".md", ".toml", ".yaml", ".yml", ".json", ".sh", ".ini", ".cfg",
        ".mako", ".lock", ".txt", ".svg", ""}  # fmt: skip


@cache
def tracked() -> tuple[str, ...]:
    """Return what git tracks, or would if everything new were added; all files below when there is no git."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        skipped = {".venv", "node_modules", "var", "__pycache__", "build"}
        files = (p.relative_to(ROOT) for p in ROOT.rglob("*") if p.is_file())
        return tuple(f.as_posix() for f in files if not skipped & set(f.parts))
    order = [git, "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(order, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(name for name in listed.splitlines() if (ROOT / name).is_file())


def test_no_source_file_passes_400_lines() -> None:
    sources = [name for name in tracked() if name.endswith((".py", ".ts")) and "migrations/versions/" not in name]
    assert len(sources) > 100
    lines = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in sources}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_nothing_tracked_holds_a_path_of_one_machine() -> None:
    machine = re.compile(r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+|mnt)/\w|(?<![\w.])/tmp/\w")
    held = {}
    for name in tracked():
        if Path(name).suffix in TEXT and not name.startswith("tests/"):
            found = machine.findall((ROOT / name).read_text(encoding="utf-8"))
            if found:
                held[name] = found
    assert held == {}


def test_nothing_large_is_tracked() -> None:
    sizes = {name: (ROOT / name).stat().st_size for name in tracked()}
    # a file over 10 MB does not belong in a repository, and neither do 40 MB of weights
    assert {name: size for name, size in sizes.items() if size > 10 * 1024**2} == {}
    assert sum(sizes.values()) < 60 * 1024**2


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_and_module_says_what_it_is(package: str) -> None:
    silent = []
    for name in tracked():
        if name.startswith(f"{package}/") and name.endswith(".py") and "migrations/versions/" not in name:
            tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
            if not ast.get_docstring(tree):
                silent.append(name)
    assert silent == []
    assert (ROOT / package / "__init__.py").is_file()


def test_imports_point_down_and_each_outside_world_has_one_owner() -> None:
    contracts = Path(sys.executable).with_name("lint-imports")
    if not contracts.exists():
        pytest.fail("import-linter is not installed")
    run = subprocess.run([str(contracts), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    script = "import sys, firstread.cli; print([m for m in ('torch', 'monai', 'transformers') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_no_todo_without_an_issue() -> None:
    marks = re.compile(r"#\s*(?:TODO|FIXME|XXX)\b(?!\s*\(?#\d+)")
    found = [
        name
        for name in tracked()
        if name.endswith((".py", ".ts")) and marks.search((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert found == []
