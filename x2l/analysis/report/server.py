"""The report as pages of this machine: details of a question and thumbnails are read when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from typing_extensions import override

from x2l.analysis.report.build import Report, render
from x2l.analysis.report.page_data import served_data
from x2l.analysis.report.questions import QuestionBrowser
from x2l.analysis.report.thumbnails import ThumbnailReader
from x2l.runs.records import NO_UTF8

Answer = tuple[str, bytes]  # kind of the content, content


class ReportPages:
    """What is found at each address. Final."""

    def __init__(self, report: Report) -> None:
        """Makes the page once.

        Args:
            report: what it shows.
        """
        self._browser: QuestionBrowser = report.questions
        self._reader = ThumbnailReader()
        page = render(report, served_data(report.questions), served=True)
        self._page = page.encode("utf-8", NO_UTF8)

    def find(self, address: str) -> Answer | None:
        """The content at an address; None where there is none.

        Args:
            address: `/`, `/question?number=3` or `/thumbnail?name=0.17`, a name out of a question's details.
        """
        parts = urlsplit(address)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/":
            return "text/html; charset=utf-8", self._page
        if parts.path == "/question":
            return self._question(asked)
        return self._thumbnail(asked) if parts.path == "/thumbnail" else None

    def _question(self, asked: Mapping[str, str]) -> Answer | None:
        number = _number(asked.get("number", ""), len(self._browser.questions))
        if number is None:
            return None
        question = self._browser.questions[number]
        times = {}
        for film in filter(None, map(question.film, question.layouts)):
            if (thumbnails := self._reader.read(film)) is not None:
                times[film] = thumbnails.times
        text = json.dumps(self._browser.details(number, times), allow_nan=False)
        return "application/json", text.encode()

    def _thumbnail(self, asked: Mapping[str, str]) -> Answer | None:
        first, _, second = asked.get("name", "").partition(".")
        films = list(self._browser.films)
        place = _number(first, len(films))
        if place is None or (thumbnails := self._reader.read(films[place])) is None:
            return None
        frame = _number(second, len(thumbnails.pictures))
        return None if frame is None else ("image/jpeg", thumbnails.jpeg(frame))


def report_server(report: Report, port: int) -> ThreadingHTTPServer:
    """A server for this machine alone; `serve_forever` starts it.

    Args:
        report: what it shows.
        port: 0 = any that is free.

    Raises:
        OSError: the port is taken.
    """
    pages = ReportPages(report)

    class Handler(BaseHTTPRequestHandler):
        """Answers from the pages."""

        def do_GET(self) -> None:
            """One address."""
            found = pages.find(self.path)
            kind, content = found or ("text/plain", b"not found\n")
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    return server


def _number(text: str, below: int) -> int | None:
    """A number from 0 to below `below`; None where it is none."""
    return int(text) if text.isascii() and text.isdigit() and int(text) < below else None
