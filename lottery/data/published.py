"""Published data sets: their files are found on disk, or downloaded by torchvision, or an error asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lottery.data.examples import DataError


@dataclass(frozen=True)
class Published:
    """A set that torchvision can download."""

    name: str
    """name of torchvision's class"""
    folder: str
    """folder, relative to the root, in which torchvision puts the files"""
    files: Sequence[str]
    endings: Sequence[str] = ("",)
    """endings that each file may have"""
    downloads: Sequence[Mapping[str, Any]] = ({},)
    """arguments of torchvision's class, one mapping for each call that it takes to download everything"""
    hint: str = ""
    """another source of the files, for the error message"""

    def paths(self, root: str) -> list[Path]:
        """The files, in `root` itself or where torchvision puts them; downloaded if they are not there."""
        folder = Path(root).expanduser()
        return self._find(folder) or self._download(folder)

    def _find(self, root: Path) -> list[Path] | None:
        for folder in (root, root / self.folder):
            found = [
                next((path for end in self.endings if (path := folder / f"{file}{end}").is_file()), None)
                for file in self.files
            ]
            if all(found):
                return [path for path in found if path]
        return None

    def _download(self, root: Path) -> list[Path]:
        from torchvision import datasets

        before = root.exists()
        try:
            for arguments in self.downloads:
                getattr(datasets, self.name)(root, download=True, **arguments)
        except (OSError, RuntimeError) as error:
            _remove_empty(root, itself=not before)
            said = " ".join(str(error).split()) or type(error).__name__
            first = self.files[0] + "".join(f"[{end}]" for end in self.endings if end)
            more = ("no", "one", "two", "three", "four", "five")[len(self.files) - 1]
            below = "" if self.folder == "." else f", in it or in {self.folder}"
            raise DataError(
                f"data.root={root}: no {self.name} there ({first} and {more} more{below}), "
                f"and the download failed ({said}); give the folder that holds the files{self.hint}"
            ) from error
        found = self._find(root)
        assert found, f"torchvision downloaded {self.name} to a place of its own"
        return found


def _remove_empty(folder: Path, itself: bool) -> None:
    """Removes the empty folders that a failed download has left."""
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):  # not empty
            path.rmdir()
    if itself:
        with suppress(OSError):  # as above
            folder.rmdir()


def damaged(path: Path, why: object) -> DataError:
    """The error for a file that is not what was published."""
    return DataError(f"{path} is damaged or unreadable: {' '.join(str(why).split())}; remove it and fetch it again")
