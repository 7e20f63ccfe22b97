"""Writes the page: template, style, script, plotting library and data in one file."""

from __future__ import annotations

import html
import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from lottery.foundations.errors import describe
from lottery.foundations.files import write_whole
from lottery.reports.page.beside import MOST_PHASES, beside
from lottery.reports.page.data import across, numeric, study_data, together, ways


def write_page(
    studies: Mapping[str, pd.DataFrame],
    path: Path,
    unlike: Mapping[str, Sequence[str] | None],
    names: Mapping[str, str],
    problems: list[str],
    told: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Writes `report.html` of some studies. A study that can't be shown is added to the problems, which it lists.

    `told` says of a study whose configuration does not lie beside its results what it is `about` and how to make it
    `again`.
    """
    data = page_data(studies, unlike, names, problems)
    for study in data["studies"]:
        study |= told.get(study["name"], {})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page(data).encode())


def page_data(
    studies: Mapping[str, pd.DataFrame],
    unlike: Mapping[str, Sequence[str] | None],
    names: Mapping[str, str],
    problems: list[str],
) -> dict[str, Any]:
    """Everything that the page shows."""
    told, columns, room = [], dict[str, None](), MOST_PHASES
    for study, frame in studies.items():
        try:
            shown = study_data(frame, names[study]) | beside(frame, room) | {"unlike": unlike[study]}
        except Exception as error:  # one study must not be the end of the others' page
            problems.append(f"{study} can't be shown: {describe(error)}")
            continue
        room -= len(frame) if shown.get("curves") else 0
        columns |= dict.fromkeys(numeric(frame))
        told.append(shown)
    packages = ("lottery", "torch", "pytorch-lightning", "numpy", "pandas", "scipy", "vl-convert-python")
    versions = [f"Python {platform.python_version()}"]
    for package in packages:
        with suppress(Exception):  # an own copy without metadata
            versions.append(f"{package} {version(package)}")
    try:
        pooled, paired = together(studies), across(studies)
    except Exception as error:
        pooled = paired = []
        problems.append(f"studies can't be taken together: {describe(error)}")
    return {
        "studies": told,
        "columns": list(columns),
        "ways": ways(list(columns)),
        "together": pooled,
        "across": paired,
        "problems": problems,
        "versions": versions,
    }


def page(data: Mapping[str, Any]) -> str:
    """The page of some data as HTML."""
    here = files("lottery.reports.page")
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    names = [study["short"] for study in data["studies"]]
    title = names[0] if len(names) == 1 else f"{len(names)} studies"
    parts = {
        "title": html.escape(title),
        "told": "".join(f"<p>{html.escape(each['short'] + ': ' + each['answer'])}</p>" for each in data["studies"]),
        "style": (here / "page.css").read_text(),
        "library": _closed(library()),
        "data": text.replace("<", "\\u003c"),  # or a name could end the script that holds the data
        "script": "".join((here / name).read_text() for name in ("words.js", "figure.js", "study.js", "tables.js")),
    }
    page = (here / "page.html").read_text()
    for name in ("title", "told", "style", "script", "library", "data"):  # data last: nothing in it is a place of ours
        before, place, after = page.partition(f"<!-- {name} -->")
        assert place
        page = before + parts[name] + after
    return page


def library() -> str:
    """Vega-Lite with Vega as one script. It takes seconds to bundle, so that it is kept in the user's cache."""
    import vl_convert

    top = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = top / "lottery" / f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError):  # not cached yet
        return kept.read_text()
    text = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    with suppress(OSError):  # best effort: a home may be read-only
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, text.encode())
    return text


def _closed(script: str) -> str:
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
