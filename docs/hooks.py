"""Notebooks, and pages of the repository that lie outside docs/, join the site, and links between all of them are kept.

In a checkout, and wherever a repository is shown, links are relative to the file that holds them. The site has
what docs/ holds at its root, with the folders of the repository beside it; so a link has to be written anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "slurm/*.*", "experiments/*.*", "experiments/*/*.*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern) if path.suffix != ".html"):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for path in sorted([*ROOT.glob("docs/**/*.ipynb"), *ROOT.glob("experiments/*.ipynb")]):
        name = path.relative_to(ROOT).with_suffix(".md").as_posix().removeprefix("docs/")
        files.append(File.generated(config, name, content=as_page(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    place = page.file.src_uri
    source = f"docs/{place}" if (ROOT / "docs" / place).exists() else place
    return re.sub(r"(?<=\]\()[^)#:\s]+(?=[)#])", lambda link: rewritten(link[0], source), markdown)


def rewritten(link: str, source: str) -> str:
    """A link of a file in the repository, as it is on the site.

    >>> rewritten("../../experiments/README.md", "docs/concepts/arm.md"), rewritten("arm.md", "docs/concepts/round.md")
    ('../experiments/README.md', 'arm.md')
    >>> rewritten("../docs/use.md", "slurm/README.md"), rewritten("notebooks/digits.ipynb", "docs/index.md")
    ('../use.md', 'notebooks/digits.md')
    """
    target = re.sub(r"\.ipynb$", ".md", normpath(join(dirname(source), link)).removeprefix("docs/"))
    return relpath(target, dirname(source.removeprefix("docs/")) or ".")


def as_page(notebook: Path) -> str:
    """A notebook with the outputs that it holds, as a page."""
    parts = []
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if image := data.get("image/png"):
                parts.append(f"![figure](data:image/png;base64,{image})")
            else:
                parts.append(f"```text\n{''.join(data['text/plain'])}\n```")
    return "\n\n".join(parts)
