"""The examples in the client's docstrings are Python."""

import ast
import textwrap

import pytest

import masklet_client
from masklet_client import sync


@pytest.mark.parametrize("module", [masklet_client, sync])
def test_the_example_of_the_module_is_python(module: object) -> None:
    lines = (module.__doc__ or "").splitlines()
    example = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ")))
    body = "async def example() -> None:\n" + textwrap.indent(example, "    ")
    calls = {
        node.func.attr
        for node in ast.walk(ast.parse(body))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert {"connect", "track", "click"} <= calls and calls & {"send", "step"}
    assert calls & {"finish", "step"}  # else iterating waits for ever
