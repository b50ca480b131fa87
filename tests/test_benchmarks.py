"""Benchmarks are run by hand, some once in months: what one takes from another has to be there still."""

import ast
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))
TREES = {file.stem: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}


def defined(tree: ast.Module) -> set[str]:
    """Names at the top of a module."""
    found = {node.id for top in tree.body for node in ast.walk(top) if isinstance(node, ast.Name)}
    found |= {top.name for top in tree.body if isinstance(top, ast.FunctionDef | ast.ClassDef)}
    imports = [top for top in tree.body if isinstance(top, ast.Import | ast.ImportFrom)]
    return found | {each.asname or each.name for top in imports for each in top.names}


@pytest.mark.parametrize("name", TREES)
def test_what_a_benchmark_takes_from_another_is_there(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and node.module in TREES:
            assert {each.name for each in node.names} <= defined(TREES[node.module]), node.module
