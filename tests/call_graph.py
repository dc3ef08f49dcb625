"""Which audit tags a function's code can reach, read from the sources: names are followed through imports.

It sees more than is done (both branches of an ``if``), never less: what it does not find, nothing does.
"""

import ast
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from config.build import FOLDERS
from db.audit import AuditTag
from db.lifecycle import model_switching, queue_control, tables

ROOT = Path(__file__).resolve().parents[1]
Place = tuple[str, str]
"""(module, name of what is defined at its top level)"""
# methods that values of every kind have, and not those of a class of ours
_EVERYWHERE = frozenset(name for kind in (dict, list, set, str, bytes, Path) for name in dir(kind)) | {
    "send",
    "run",
    "file",
    "app",
    "settings",
}
_FEW = 4  # classes with a method of one name; of more it is not told which is meant
_MAPPINGS = (tables, queue_control, model_switching)


@cache
def moves() -> Mapping[str, Mapping[tuple[Any, Any], AuditTag]]:
    """Return every table of moves by its name."""
    return {
        name: value
        for module in _MAPPINGS
        for name, value in vars(module).items()
        if name.endswith("_MOVES") and isinstance(value, Mapping) and value
    }


class Sources:
    """Every module of ours: what it defines, and what its imported names mean."""

    def __init__(self) -> None:
        self.defined: dict[Place, ast.AST] = {}
        self.imported: dict[Place, Place] = {}
        self.modules: set[str] = set()
        self.methods: dict[str, set[Place]] = {}
        for path in sorted(one for name in FOLDERS for one in (ROOT / name).rglob("*.py")):
            if "node_modules" not in path.parts:
                self._read(path)

    def _read(self, path: Path) -> None:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        self.modules.add(module)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            for name in _defined(node):
                self.defined[module, name] = node
            if isinstance(node, ast.ClassDef):
                for method in (one.name for one in node.body if isinstance(one, ast.FunctionDef)):
                    self.methods.setdefault(method, set()).add((module, node.name))
        self._read_imports(module, tree)

    def _read_imports(self, module: str, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    self.imported[module, alias.asname or alias.name] = (node.module, alias.name)

    def resolve(self, module: str, name: str) -> Place | None:
        """Return where a name of a module is defined; ``(module, "")`` for a module."""
        for _ in range(5):
            if (module, name) in self.defined:
                return module, name
            if f"{module}.{name}" in self.modules:
                return f"{module}.{name}", ""
            found = self.imported.get((module, name))
            if found is None:
                return None
            module, name = found
        return None


@cache
def sources() -> Sources:
    """Return the sources, read once."""
    return Sources()


def reached(start: Place) -> set[str]:
    """Return the tags, and names of tables of moves as their tags, that the code from ``start`` on can name."""
    code, seen, waiting, tags = sources(), {start}, [start], set()
    assert start in code.defined, f"{start} is not to be found"
    while waiting:
        place = waiting.pop()
        for found in _referred(place):
            if isinstance(found, str):
                tags |= {str(tag) for tag in moves()[found].values()} if found in moves() else {str(AuditTag[found])}
            elif found not in seen:
                seen.add(found)
                waiting.append(found)
    return tags


@cache
def _referred(place: Place) -> frozenset[Place | str]:
    return frozenset(_references(sources(), place))


def _references(code: Sources, place: Place) -> Iterator[Place | str]:
    module, _ = place
    for node in _body(code.defined[place]):
        if isinstance(node, ast.Attribute):
            yield from _attribute(code, module, node)
            continue
        named = [(module, node.id)] if isinstance(node, ast.Name) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            named = [(node.module, alias.name) for alias in node.names]
        for where, name in named:
            if name in moves():
                yield name
            found = code.resolve(where, name)
            if found in code.defined:
                yield found


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [one.id for one in targets if isinstance(one, ast.Name)]


def _attribute(code: Sources, module: str, node: ast.Attribute) -> Iterator[Place | str]:
    if isinstance(node.value, ast.Name):
        if node.value.id in {"AuditTag", "_T", "T"} and node.attr in AuditTag.__members__:
            yield node.attr
            return
        found = code.resolve(module, node.value.id)
        if found is not None and not found[1]:
            inner = code.resolve(found[0], node.attr)
            if inner is not None and inner in code.defined:
                yield inner
            return
    # a method of some object: the classes of this package that have one of this name, when they are few
    package = module.partition(".")[0]
    owners = {one for one in code.methods.get(node.attr, set()) if one[0].partition(".")[0] == package}
    if len(owners) <= _FEW and node.attr not in _EVERYWHERE:
        yield from owners


def _body(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what stands in a definition, without its decorators."""
    if isinstance(node, ast.FunctionDef):
        for part in (node.args, *node.body):
            yield from ast.walk(part)
    else:
        yield from ast.walk(node)


def place_of(function: Callable[..., Any]) -> Place:
    """Return where a function, or what it wraps, is defined; a method stands for its class, a closure for its maker."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function.__module__, function.__qualname__.partition(".")[0]
