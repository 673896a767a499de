"""Reads what stands in the source beside a name: the string below a field or constant, which Python throws away."""

from __future__ import annotations

import ast
import inspect
import itertools
from types import ModuleType


def explanations(of: type | ModuleType) -> dict[str, str]:
    """Name of each field, or constant, that has an explanation -> the explanation."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(of)) if isinstance(of, type) else inspect.getsource(of))
    body = tree.body[0].body if isinstance(of, type) and isinstance(tree.body[0], ast.ClassDef) else tree.body
    found: dict[str, str] = {}
    for node, below in itertools.pairwise(body):
        if name := _name(node):
            match below:
                case ast.Expr(value=ast.Constant(value=str() as text)):
                    found[name] = inspect.cleandoc(text)
    return found


def _name(node: ast.stmt) -> str:
    match node:
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return name
    return ""
