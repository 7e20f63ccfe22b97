"""torchmetrics is imported without SciPy's signals, and nothing is different afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import scipy.signal

from lottery.training.signals import SIGNALS, import_torchmetrics

LIKE_THEIRS = """
import scipy.signal
if not hasattr(scipy.signal, "hamming"):
    scipy.signal.hamming = scipy.signal.windows.hamming
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the place of torchmetrics, in a process that has not imported SciPy's signals yet."""
    for name in [name for name in sys.modules if f"{name}.".startswith(("torchmetrics.", f"{SIGNALS}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(scipy, "signal")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "torchmetrics.py"


def test_signals_are_not_imported(theirs: Path) -> None:
    theirs.write_text(LIKE_THEIRS)
    import_torchmetrics()
    assert Path(str(sys.modules["torchmetrics"].__file__)) == theirs
    assert SIGNALS not in sys.modules


@pytest.mark.parametrize("line", ["from scipy.signal import get_window", "import scipy.signal.windows"])
def test_whatever_else_is_asked_for_is_the_real_one(theirs: Path, line: str) -> None:
    theirs.write_text(f"{LIKE_THEIRS}\n{line}\n")
    import_torchmetrics()
    assert sys.modules[SIGNALS].get_window("boxcar", 2).tolist() == [1, 1]


def test_an_error_leaves_nothing(theirs: Path) -> None:
    theirs.write_text("import scipy.signal\n1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        import_torchmetrics()
    assert SIGNALS not in sys.modules


def test_it_is_left_to_others_where_the_name_is_needed(theirs: Path) -> None:
    theirs.write_text(LIKE_THEIRS)
    theirs.with_name("srmrpy.py").touch()
    import_torchmetrics()
    assert not {"torchmetrics", SIGNALS} & sys.modules.keys()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["hardware", "modules", "lightning.project"])
def test_of_a_process_of_its_own(module: str) -> None:
    code = f"import sys, lottery.training.{module}; print({{'torchmetrics', '{SIGNALS}'}} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "{'torchmetrics'}\n"
