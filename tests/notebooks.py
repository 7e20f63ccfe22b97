"""Runs the code of a notebook in one namespace, without Jupyter: `python -m tests.notebooks FILE` writes its outputs.

It supports what our notebooks use: Python, display of the last expression and of figures, and commands after `!`. Those
of docs/ run in an empty folder, those of experiments/ in their own, beside the results that they read.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

Output = dict[str, Any]
_PROGRESS = re.compile(r" round +\d+/\d+ ")
"""matches progress lines, whose number depends on the machine's speed"""


def executed(notebook: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The notebook with new outputs, after its code cells ran in `folder` in order."""
    import matplotlib

    matplotlib.use("Agg")
    namespace: dict[str, Any] = {"__name__": "__main__", "_run": _run}
    cells, count = [], 0
    with contextlib.chdir(folder):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                count += 1
                cell = cell | {"execution_count": count, "outputs": _outputs("".join(cell["source"]), namespace, count)}
            cells.append(cell)
    return notebook | {"cells": cells}


def _outputs(source: str, namespace: dict[str, Any], count: int) -> list[Output]:
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    outputs: list[Output] = []
    # commands may go over several lines, and braces in them hold Python, as in Jupyter
    lines = re.sub(r"\\\n *", "", source).splitlines() if source.startswith("!") else source.splitlines()
    lines = [f"_run(f{line[1:]!r})" if line.startswith("!") else line for line in lines]
    tree = ast.parse("\n".join(lines))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(tree, "<cell>", "exec"), namespace)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace) if last else None
    if out.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": out.getvalue().splitlines(keepends=True)})
    shown = [plt.figure(number) for number in plt.get_fignums()]
    if isinstance(value, Figure):
        shown, value = [*shown, value], None
    for figure in shown:
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=80, bbox_inches="tight", metadata={"Software": None})
        data = {"image/png": base64.b64encode(png.getvalue()).decode()}
        outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
    if value is not None and not shown:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        outputs.append({"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"})
    plt.close("all")
    return outputs


def _run(command: str) -> None:
    """Runs a shell command, of which only `lottery ...` is supported, and returns its output."""
    words = shlex.split(command)
    assert words[0] == "lottery", command
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "HYDRA_", "LOTTERY_"))}
    done = subprocess.run([sys.executable, "-m", *words], env=kept, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    for line in done.stdout.splitlines():
        if not _PROGRESS.search(line):
            print(line)


def main() -> None:
    for name in sys.argv[1:]:
        path = Path(name)
        with tempfile.TemporaryDirectory() as empty:
            folder = path.parent if path.absolute().parent.name == "experiments" else Path(empty)
            made = executed(json.loads(path.read_text()), folder)
        path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
