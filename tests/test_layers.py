"""Imports go down the layers only, and no two files import each other in a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = (
    {"errors"},
    {"formats", "ports", "host", "object_stores"},
    {"console", "skeletons"},
    {"storage"},
    {"logs", "config", "lease"},
    {"run_folder"},
    {"models", "data"},
    {"synthetic"},
    {"evaluation"},
    {"tracking"},
    {"inference", "visualization"},
    {"ray_runtime"},
    {"training"},
    {"registry"},
    {"experiment"},
    {"bench", "cli", "api"},
    {"tune", "jobs", "cluster"},
)
"""Bottom to top, packages and modules without "mipnet."; those of one layer may import one another.

The package ``mipnet`` itself only has names for users and the version."""
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("mipnet", "tune", "jobs", "cluster")
    for path in (ROOT / folder).rglob("*.py")
}


def room_of(module: str) -> str:
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "mipnet" else first


def imports_of(module: str) -> set[str]:
    """The files that a file imports, inside functions and for type checkers, too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {found for name in names if (found := name if name in FILES else name.rpartition(".")[0]) in FILES}


GRAPH = {module: imports_of(module) - {module} for module in FILES}


def test_layers_name_every_room() -> None:
    rooms = {room_of(module) for module in FILES} - {"", "__main__"}
    assert rooms == set(RANK)


@pytest.mark.parametrize("module", sorted(module for module in FILES if room_of(module) in RANK))
def test_layers_are_imported_downwards(module: str) -> None:
    rank = RANK[room_of(module)]
    upward = [other for other in GRAPH[module] if RANK.get(room_of(other), -1) > rank]
    assert not upward


def test_layers_have_no_circle_of_files() -> None:
    graph = {module: others - {"mipnet"} for module, others in GRAPH.items() if module != "mipnet"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
