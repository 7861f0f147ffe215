"""Execute a notebook from the root of the checkout and fail with its traceback: scripts/run_notebook.py x.ipynb."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main() -> None:
    """argv: the notebook; it is not written back."""
    path = Path(sys.argv[1])
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(Path.cwd())}}).execute()
    print(f"{path}: {sum(cell.cell_type == 'code' for cell in book.cells)} cells ran")


if __name__ == "__main__":
    main()
