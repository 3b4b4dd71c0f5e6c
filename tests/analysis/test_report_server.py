import html
import io
import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tests.synthetic import record
from x2l.analysis.report.build import gather
from x2l.analysis.report.page_data import page_data
from x2l.analysis.report.server import report_server
from x2l.benchmarks.base import Sample
from x2l.runs.records import RecordWriter
from x2l.video import write_video

SPANS = ((9.0, 11.0),)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of a video of 24 grey frames, each brighter than the last; one that is gone; one of other frames than told."""
    folder = tmp_path_factory.mktemp("served")
    pixels = [np.full((32, 32, 3), 10 * number, np.uint8) for number in range(24)]
    write_video(folder / "v0.mp4", pixels, 1)
    run = folder / "sweep" / "0123456789ab"
    run.mkdir(parents=True)
    gone = dict(video_id="v1", sample_id="v1/q0")
    other = dict(video_id="v2", sample_id="v2/q0", frames_sampled=12)
    with RecordWriter(run / "records.jsonl") as writer:
        for one in (record(), record(**gone), record(**other)):
            writer.append(one)
    files = {"v0": "v0.mp4", "v1": "v1.mp4", "v2": "v0.mp4"}
    samples = {
        ("needle", f"{video}/q0"): Sample(
            f"{video}/q0", video, str(folder / file), "a", "b", ("c", "d"), "A", SPANS, {}
        )
        for video, file in files.items()
    }
    return gather(folder / "sweep", samples)


def brightness(jpeg):
    return float(np.asarray(Image.open(io.BytesIO(jpeg)), float).mean())


def test_pictures_are_those_of_the_frames_that_hold_the_answer(report):
    page = page_data(report.questions)
    values = json.loads(page.data)
    (layout,) = values["details"]["0"]["layouts"]
    assert layout["pictures"] == ["0.4", "0.10", "0.20"] and not layout["about"]
    assert values["pictures"].keys() == {"0.4", "0.10", "0.20"}
    (note,) = page.notes
    assert "no pictures of 2 of 3 videos" in note


def test_a_missing_file_or_one_of_other_frames_has_no_pictures(report):
    details = json.loads(page_data(report.questions).data)["details"]
    for number in "12":
        (layout,) = details[number]["layouts"]
        assert set(layout["pictures"]) == {None} and layout["about"]
        assert details[number]["options"] == [["A", "c"], ["B", "d"]]


def test_a_server_gives_what_the_file_holds_and_nothing_else(report):
    with report_server(report, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def ask(path):
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}") as reply:
                return reply.read()

        held = json.loads(page_data(report.questions).data)
        for number in range(3):
            assert json.loads(ask(f"/question?number={number}")) == held["details"][str(number)]
        assert brightness(ask("/thumbnail?name=0.10")) == pytest.approx(100, abs=6)
        page = html.unescape(ask("/").decode())
        assert '"served":true' in page and "connect-src 'self'" in page
        for wrong in ("/question?number=3", "/question?number=-1", "/question", "/thumbnail"):
            with pytest.raises(urllib.error.HTTPError, match="404") as error:
                ask(wrong)
            error.value.close()
        for wrong in ("/thumbnail?name=0.24", "/thumbnail?name=9.0", "/../etc/passwd"):
            with pytest.raises(urllib.error.HTTPError, match="404") as error:
                ask(wrong)
            error.value.close()
        server.shutdown()
