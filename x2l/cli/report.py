"""`x2l-report SWEEP`: everything a sweep found, as one HTML file that needs no network.

SWEEP is a sweep's folder, a run's, or any folder of those. The file is made from the records alone, again
each time; it may be made while a sweep is going. What could not be shown is said in it, with what to run.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from x2l.analysis.report.build import REPORT, write_report
from x2l.cli.output import command, fail, show


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exit status 1 where nothing is answered yet, 2 where there is no such folder."""
    parser = argparse.ArgumentParser(
        prog="x2l-report", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="SWEEP", help="sweep or run")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: SWEEP/{REPORT}")
    options = parser.parse_args(arguments)
    with command():
        _report(options.folder, options.out)


def _report(folder: Path, out: Path | None) -> None:
    if not folder.is_dir():
        fail(f"SWEEP={folder}: no such folder; give one that x2l wrote")
    if out is not None and out.is_dir():
        fail(f"--out={out}: is a folder; give a file, e.g. {out / REPORT}")
    try:
        path = write_report(folder, out)
    except ValueError as error:
        fail(str(error), 1)
    show(str(path))


if __name__ == "__main__":
    main()
