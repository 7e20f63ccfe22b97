"""The public face: what `import lottery` offers, that it is lazy, and that type checkers see it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import lottery
from tests.conftest import environment

ROOT = Path(__file__).parent.parent
PUBLIC = ["Data", "Evidence", "Examples", "Module", "Scores", "Target", "load", "plot", "read"]


def test_dir_lists_the_public_names_and_no_others() -> None:
    assert [name for name in dir(lottery) if not name.startswith("_")] == PUBLIC
    assert "__version__" in dir(lottery)
    assert dir(lottery) == sorted(set(dir(lottery)))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_the_one_that_its_module_defines(name: str) -> None:
    found = getattr(lottery, name)
    assert found is getattr(import_module(lottery._HOMES[name]), name)
    if name != "Scores":  # an alias of a type knows no module
        assert (found.__module__, found.__name__) == (lottery._HOMES[name], name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'lottery' has no attribute 'Modul'"):
        _ = lottery.Modul


def test_importing_lottery_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pandas", "pytorch_lightning", "matplotlib", "hydra", "wandb")
    code = f"import sys, lottery; dir(lottery); lottery.__version__; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == "[]\n"


def test_the_version_is_the_project_s() -> None:
    assert lottery.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_what_is_re_exported_for_type_checkers_is_what_is_found_at_run_time() -> None:
    tree = ast.parse((ROOT / "lottery" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    found = [
        (name.name, name.asname, node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    ]
    # `X as X` is what marks a name as public for type checkers
    assert sorted(found) == sorted((name, name, home) for name, home in lottery._HOMES.items())


@pytest.mark.slow  # over a minute without a cache
def test_type_checkers_see_the_public_names(tmp_path: Path) -> None:
    user = tmp_path / "user.py"
    user.write_text(
        "import lottery\n"
        f"from lottery import {', '.join(PUBLIC)}\n"
        "def keep(evidence: Evidence, target: Target, data: Data, examples: Examples) -> Scores:\n"
        "    reveal_type(target.density)\n"
        "    return {name: mask.float() for name, mask in evidence.masks.items()}\n"
        "class Mine(Module): ...\n"
        'reveal_type(load("cell", 3)[1])\n'
        'reveal_type(read("runs").shape)\n'
        "reveal_type(lottery.__version__)\n"
    )
    arguments = ["--config-file", "", "--strict", "--follow-imports=silent", "--ignore-missing-imports"]
    command = [sys.executable, "-m", "mypy", *arguments, "--cache-dir", str(tmp_path / "cache"), str(user)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    revealed = [line.split('"')[1] for line in done.stdout.splitlines() if "Revealed type" in line]
    kinds = ["float", "dict[str, torch._tensor.Tensor]", "tuple[int, int]", "str"]
    assert [kind.replace("builtins.", "") for kind in revealed] == kinds, done.stdout
    assert done.stdout.splitlines()[-1] == "Success: no issues found in 1 source file"


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "lottery" / "py.typed").read_bytes() == b""
