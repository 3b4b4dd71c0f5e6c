"""`x2l-report SWEEP`: everything a sweep found, as one HTML file that needs no network.

SWEEP is a sweep's folder, a run's, or any folder of those. The file is made from the records alone, again
each time; it may be made while a sweep is going. What could not be shown is said in it, with what to run.
Where the videos are still there, questions are shown with pictures and options.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from x2l.analysis.report.build import REPORT, gather, write_report
from x2l.analysis.report.server import report_server
from x2l.cli.found_samples import found_samples
from x2l.cli.output import command, fail, show
from x2l.evaluation.progress import Progress


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exit status 1 where nothing is answered yet, 2 where there is no such folder."""
    parser = argparse.ArgumentParser(
        prog="x2l-report", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="SWEEP", help="sweep or run")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: SWEEP/{REPORT}")
    parser.add_argument(
        "--serve",
        type=int,
        nargs="?",
        const=8000,
        metavar="PORT",
        help="show it at http://127.0.0.1:PORT (8000 unless given; 0: any) until Ctrl-C, with every question and "
        "picture of a large sweep read on demand; writes no file",
    )
    options = parser.parse_args(arguments)
    with command():
        if not options.folder.is_dir():
            fail(f"SWEEP={options.folder}: no such folder; give one that x2l wrote")
        if options.serve is None:
            _write(options.folder, options.out)
        else:
            _serve(options.folder, options.out, options.serve)


def _serve(folder: Path, out: Path | None, port: int) -> None:
    if out is not None:
        fail(f"--out={out}: --serve writes no file; give one of the two")
    if not 0 <= port <= 65535:
        fail(f"--serve={port}: must be a port, 0 to 65535")
    try:
        report = gather(folder, found_samples(folder))
    except ValueError as error:
        fail(str(error), 1)
    try:
        server = report_server(report, port)
    except OSError as error:
        fail(f"--serve={port}: {(error.strerror or str(error)).lower()}; give another port, or 0")
    with server:
        show(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)")
        server.serve_forever()


def _write(folder: Path, out: Path | None) -> None:
    if out is not None and out.is_dir():
        fail(f"--out={out}: is a folder; give a file, e.g. {out / REPORT}")
    try:
        with Progress(1, "reading videos", unit="video", leave=False) as progress:
            path = write_report(folder, out, found_samples(folder), progress.at)
    except ValueError as error:
        fail(str(error), 1)
    show(str(path))


if __name__ == "__main__":
    main()
