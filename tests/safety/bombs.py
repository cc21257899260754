"""Files that write a marker when somebody runs what is in them."""

import pickle
from pathlib import Path


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def pickled_bomb(marker: Path) -> bytes:
    return pickle.dumps(_Bomb(marker))


def source_bomb(marker: Path, *class_names: str) -> str:
    """A Python file that writes the marker when it is imported, and has the classes that a model would name."""
    classes = "".join(f"class {name}:\n    pass\n" for name in class_names)
    return f"open({str(marker)!r}, 'w').close()\n{classes}"
