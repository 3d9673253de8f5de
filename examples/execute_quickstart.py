"""Run quickstart.ipynb on the checkpoint in runs/demo/stage2, and keep what it shows, but nothing of the machine.

python examples/execute_quickstart.py
"""

import argparse
from pathlib import Path


NOTEBOOK = Path(__file__).with_name("quickstart.ipynb")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if not (NOTEBOOK.parent / "../runs/demo/stage2").exists():
        parser.error("there is no checkpoint in runs/demo/stage2; `make demo` makes it")
    import nbclient
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kept = notebook.metadata.copy()
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, record_timing=False, resources=resources).execute()
    notebook.metadata = kept  # it names this Python's version
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # Warnings and progress bars hold paths.
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
