"""The house's rules that no linter knows."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

DOMAIN = sorted((Path(__file__).parent.parent / "agentsvc" / "domain").glob("*.py"))


@pytest.mark.parametrize("module", DOMAIN, ids=lambda path: path.stem)
def test_domain_imports_the_standard_library_and_itself(module: Path):
    imported = set()
    for node in ast.walk(ast.parse(module.read_text())):
        match node:
            case ast.Import(names=names):
                imported |= {name.name for name in names}
            case ast.ImportFrom(module=str(name), level=0):
                imported.add(name)
    foreign = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith("agentsvc.domain")} == set()
