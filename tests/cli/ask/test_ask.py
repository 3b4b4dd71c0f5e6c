"""`x2l-ask`: what it prints, saves and refuses; on a generated video, x2l_tiny, and videos of other tools."""

import importlib.metadata
import io
import json
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from tests import fork_server
from tests.test_video_formats import H265, cover_picture, damaged, write
from tests.tiny import FAMILIES, save
from x2l.benchmarks.needle.benchmark import Needle
from x2l.cli.ask import command as ask
from x2l.cli.ask import own_video
from x2l.cli.compose import composed, engine
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.engine.shown_chunks import chunk_pixels
from x2l.evaluation import session
from x2l.evaluation.conditions import cells
from x2l.models.loading import PACKAGED, load
from x2l.models.out_of_memory import MemoryAdvice
from x2l.selectors.base import FrameSelector, Watch
from x2l.video import read_frames, write_video

FEW = ["--", "levels.high.ratio=4", "top_k=1"]


@pytest.fixture(scope="module")
def needle(tmp_path_factory):
    """The samples about one generated video of 32 seconds: four chunks."""
    benchmark = Needle(str(tmp_path_factory.mktemp("needle")), videos=1, seconds=32)
    benchmark.prepare()
    return benchmark.samples()


@pytest.fixture(scope="module")
def video(needle):
    return needle[0].video


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    """No input, unless a test gives some."""
    monkeypatch.setattr("sys.stdin", io.StringIO())


def told(capsys, *arguments):
    """Runs the command; (exit status, stdout, stderr)."""
    code = 0
    try:
        ask.main([str(argument) for argument in arguments])
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    return code, out, err


def lines(out, name):
    return [line[12:] for line in out.splitlines() if line.startswith(f"{name} ")]


def colours(needle):
    """Question and answer of the retrieval samples, without options."""
    found = [sample for sample in needle if sample.task == "retrieval"]
    return {s.question: s.choices["ABCD".index(s.answer)] for s in found}


def test_answers_are_right_where_little_is_compressed(capsys, needle, video):
    asked = colours(needle)
    code, out, err = told(capsys, video, *asked, "--", "levels.high.ratio=2", "selector=none")
    assert code == 0, err
    assert lines(out, "question") == list(asked)
    assert lines(out, "answer") == list(asked.values())
    assert lines(out, "re-loaded") == ["none (0 of 4 chunks)"] * 2
    assert lines(out, "relevance") == []


def test_options_of_a_benchmarks_question_stand_on_lines_of_their_own(capsys, needle, video):
    sample = next(sample for sample in needle if sample.task == "counting")
    words = Needle("").prompt(sample).replace("\n", r"\n")
    code, out, _ = told(capsys, video, words, "--", "levels.high.ratio=2")
    assert code == 0 and lines(out, "answer") == [sample.answer]
    assert f"question    {sample.question}\n            A. " in out


def test_one_prefill_serves_all_questions_and_everything_is_told(
    capsys, needle, video, monkeypatch
):
    real, calls = session.prefill, []
    monkeypatch.setattr(session, "prefill", lambda *a, **k: calls.append(a) or real(*a, **k))
    code, out, err = told(capsys, video, *colours(needle), "What?", *FEW)
    assert (code, len(calls)) == (0, 1)
    assert lines(out, "video") == [f"{video}: 00:32, 32 frames of 64 x 64, 4 chunks of 8"]
    (settings,) = lines(out, "settings")
    assert settings == (
        "x2l_tiny float32 on cpu; density_peaks low 2x, high 4x; keys top_k=1; "
        "context full, positions keep"
    )
    assert len(lines(out, "pre-fill")) == 1
    for span in lines(out, "re-loaded"):
        start, end = re.fullmatch(r"(00:\d\d)-(00:\d\d) \(1 of 4 chunks\)", span).groups()
        assert int(end[3:]) - int(start[3:]) == 8
    for bars in lines(out, "relevance"):
        assert re.match(r"[▁▂▃▄▅▆▇█]{4}  [\d.]+ to [\d.]+$", bars) and "█" in bars
    for seconds in lines(out, "seconds"):
        assert re.fullmatch(r"\d+\.\d\d \(pre-fill, once: \d+\.\d\d\)", seconds)
    assert len(lines(out, "answer")) == len(lines(out, "compute")) == 3
    assert err.splitlines() == [f"reading {video}", "loading x2l_tiny"]


def saved(folder):
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def test_full_kvs_are_the_measure(capsys, video, tmp_path):
    """What the other run is compared with is what this one takes: nothing compressed, nothing selected."""
    question = "What is the colour of the ring?"
    full = ["--", "levels.low.ratio=1", "levels.high.ratio=1", "selector=none"]
    code, out, _ = told(capsys, video, question, "--save", tmp_path / "full", *full)
    (whole,) = saved(tmp_path / "full").values()
    assert code == 0 and whole["flops"] == whole["flops_full"]
    assert whole["kv_bytes_attended"] == whole["kv_bytes_full"] < whole["kv_bytes_stored"]
    assert "full KVs" in lines(out, "KV bytes")[0] and "(100 %)" in lines(out, "compute")[0]
    _, out, _ = told(capsys, video, question, "--save", tmp_path / "few", *FEW)
    (few,) = saved(tmp_path / "few").values()
    assert few["kv_bytes_full"] == whole["kv_bytes_full"]
    # 15 tokens before the video, 4 chunks of 64: one kept at 2x, three at 4x.
    tokens = whole["prefill"]["tokens"]
    assert few["kv_bytes_attended"] / whole["kv_bytes_full"] == (tokens - 256 + 32 + 48) / tokens
    share = 100 * few["kv_bytes_stored"] / few["kv_bytes_full"]
    assert f"({share:.1f} %)" in lines(out, "KV bytes")[0]
    assert few["prefill"]["flops"] > whole["prefill"]["flops"]  # compression comes on top
    if few["answer"] == whole["answer"]:
        assert few["flops_full"] == whole["flops_full"]
    told(capsys, video, question, "--save", tmp_path / "few", *FEW, "selector=uniform")
    uniform = list(saved(tmp_path / "few").values())[1]
    assert uniform["answer"] == few["answer"]
    assert uniform["flops"] < uniform["flops_full"] < few["flops"]  # attention asks twice


def test_a_sheet_and_a_json_file_for_each_question_and_none_is_overwritten(
    capsys, needle, video, tmp_path
):
    folder = tmp_path / "new" / "folder"
    asked = list(colours(needle))
    _, out, _ = told(capsys, video, *asked, "--save", folder, *FEW)
    name = Path(video).stem
    assert lines(out, "saved") == [str(folder / f"{name}-0{number}.png") for number in (1, 2)]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    _, out, _ = told(capsys, video, asked[0], "--save", folder, *FEW)
    assert lines(out, "saved") == [str(folder / f"{name}-03.png")]
    assert {path: path.read_bytes() for path in before} == before
    found = saved(folder)
    assert [found[f"{name}-0{number}"]["question"] for number in (1, 2, 3)] == [*asked, asked[0]]
    one = found[f"{name}-01"]
    assert [chunk["seconds"] for chunk in one["chunks"]] == [[8 * i, 8 * i + 8] for i in range(4)]
    (chosen,) = one["reloaded"]
    assert [chunk["reloaded"] for chunk in one["chunks"]] == [i == chosen for i in range(4)]
    ratings = [chunk["relevance"] for chunk in one["chunks"]]
    assert max(ratings) == ratings[chosen]
    assert one["reloaded_seconds"] == [[8 * chosen, 8 * chosen + 8]]
    assert one["settings"]["selector"] == "keys"
    assert [level["ratio"] for level in one["settings"]["levels"]] == [2, 4]
    image = imread(folder / f"{name}-01.png")
    assert image.shape[1] == 1200 and image[:, :, :3].std() > 0.05


def test_thumbnails_are_the_chunks_own_frames(video):
    frames = read_frames(video, 32, 1)
    prompt = load("x2l_tiny").prompt(frames, 8)
    pictures = [own_video.thumbnails(pixels, 320) for _, pixels in chunk_pixels(prompt)]
    assert torch.equal(torch.cat(pictures), frames.pixels)
    large = frames.pixels[:2].repeat(1, 10, 20, 1)
    pictures = own_video.thumbnails(large, 320)
    assert pictures.shape == (2, 160, 320, 3) and pictures.dtype == torch.uint8
    assert own_video.thumbnail_side(100) == 320
    assert 3 * own_video.thumbnail_side(9000) ** 2 * 9000 <= own_video.THUMBNAILS


def test_a_sheet_shows_the_frame_that_the_selector_rates_highest(capsys, needle, video, tmp_path):
    (sample, *_) = [sample for sample in needle if sample.task == "retrieval"]
    ((start, end),) = sample.spans
    heads = "selector.keys.heads=x2l_tiny_heads"
    told(capsys, video, sample.question, "--save", tmp_path, *FEW, heads)
    told(capsys, video, sample.question, "--save", tmp_path, *FEW, "selector=random")
    rated, random = saved(tmp_path).values()
    (chosen,) = rated["reloaded"]
    assert start <= rated["chunks"][chosen]["shown"] < end
    assert [chunk["shown"] for chunk in random["chunks"]] == [4, 12, 20, 28]  # the middle ones
    assert rated["chunks"][chosen]["shown"] != random["chunks"][chosen]["shown"]


def test_an_answer_that_is_cut_off_says_so(capsys, needle, video):
    question, answer = next(iter(colours(needle).items()))
    full = ["--", "levels.high.ratio=2"]
    _, out, _ = told(capsys, video, question, "--max-new-tokens", "1", *full)
    assert lines(out, "answer") == [f"{answer} … (cut off: max_new_tokens=1)"]
    _, out, _ = told(
        capsys, video, question, "--max-new-tokens", "2", *full
    )  # the word and the end
    assert lines(out, "answer") == [answer]


def test_the_benchmarks_settings_do_not_bound_ones_own_video(capsys, video):
    sparse = ["video.fps=0.5", "prefill.chunk_frames=2", "top_k=40", "selector=uniform"]
    code, out, err = told(capsys, video, "What?", "--", *sparse)
    assert code == 0, err
    assert lines(out, "re-loaded") == ["00:00-00:32 (8 of 8 chunks)"]


@pytest.mark.parametrize("frames", [1, 5])
def test_of_fewer_frames_than_a_chunk_has_all_are_reloaded(capsys, video, frames):
    code, out, err = told(capsys, video, "What?", "--", f"video.frames={frames}", "top_k=3")
    assert code == 0, err
    assert lines(out, "re-loaded") == ["00:00-00:32 (1 of 1 chunk)"]


# --- questions from the input --------------------------------------------------------------------------------------


def test_piped_questions_are_answered_one_a_line(capsys, needle, video, monkeypatch):
    asked = colours(needle)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n" + "\n\n".join(asked) + "\n  \n"))
    code, out, err = told(capsys, video, "--", "levels.high.ratio=2")
    assert code == 0, err
    assert lines(out, "answer") == list(asked.values())


def test_a_piped_question_that_is_refused_stops_no_other(capsys, needle, video, monkeypatch):
    question, answer = next(iter(colours(needle).items()))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"a <|video_pad|>\n{question}\n"))
    code, out, err = told(capsys, video, "--", "levels.high.ratio=2")
    assert code == 2 and "error: question='a <|video_pad|>'" in err
    assert lines(out, "answer") == [answer]


class Typed(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("end", ["", EOFError()], ids=["empty line", "Ctrl-D"])
def test_a_prompt_asks_until_an_empty_line_or_the_end(capsys, needle, video, monkeypatch, end):
    asked = colours(needle)
    typed = iter([*asked, "a <|video_pad|>", next(iter(asked)), end, "too late"])

    def typing(prompt):
        word = next(typed)
        if isinstance(word, Exception):
            raise word
        return word

    monkeypatch.setattr("sys.stdin", Typed())
    monkeypatch.setattr("builtins.input", typing)
    code, out, err = told(capsys, video, "--", "levels.high.ratio=2")
    answers = list(asked.values())
    assert lines(out, "answer") == [*answers, answers[0]]
    assert code == 0 and "error: question='a <|video_pad|>'" in err
    assert next(typed) == "too late"


def test_an_interrupt_ends_it(capsys, video, monkeypatch):
    def interrupted(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Typed())
    monkeypatch.setattr("builtins.input", interrupted)
    code, _, err = told(capsys, video, *FEW)
    assert (code, err.splitlines()[-1]) == (130, "interrupted")


@pytest.mark.slow
def test_the_command_on_a_terminal(needle, video):
    """The real entry point: a progress bar with the time left, a prompt, an answer, Ctrl-D."""
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="x2l-ask")
    assert entry.load() is ask.main
    question, answer = next(iter(colours(needle).items()))
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = fork_server.Process(
        *("x2l.cli.ask.command", [video, "--", "levels.high.ratio=2"], Path.cwd()),
        {**os.environ, "OMP_NUM_THREADS": "1"},
        [theirs] * 3,
    )
    os.close(theirs)
    out, typed = "", [f"{question}\n", "\x04"]
    while True:
        try:
            part = os.read(ours, 4096).decode(errors="replace")
        except OSError:  # the other end is closed
            break
        out += part
        if typed and out.count("\n? ") == 3 - len(typed):
            os.write(ours, typed.pop(0).encode())
    os.close(ours)
    assert process.wait() == 0
    assert re.search(r"pre-fill of \w+, chunks: .*\d/4 \[\d\d:\d\d<", out)
    assert f"answer      {answer}\r\n" in out and "Traceback" not in out


# --- what is refused -----------------------------------------------------------------------------------------------


def audio_only(folder):
    cover_picture(folder / "song.mp3")
    return folder / "song.mp3"


def broken(folder):
    damaged(folder / "broken.mp4")
    return folder / "broken.mp4"


def text(folder):
    (folder / "notes.txt").write_text("no video\n" * 50)
    return folder / "notes.txt"


FILES = {
    "missing": (lambda folder: folder / "none.mp4", "none.mp4: no such file"),
    "folder": (lambda folder: folder, "is a folder"),
    "not a video": (text, "notes.txt: not a video"),
    "audio only": (audio_only, "song.mp3: no video stream (audio only?)"),
    "damaged": (broken, "broken.mp4: damaged: the frame at"),
}


def refused(capsys, message, *arguments):
    """Refused with 2 and one line that holds the message."""
    code, out, err = told(capsys, *arguments)
    assert code == 2 and out == ""
    errors = [line for line in err.splitlines() if not line.startswith(("reading ", "loading "))]
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0], err


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_asked_is_one_line(case, capsys, tmp_path):
    make, message = FILES[case]
    refused(capsys, message, make(tmp_path), "What?")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([""], "question='': is empty"),
        (["What?", " "], "question='': is empty"),
        (["top_k=4"], "looks like a setting; settings come after --"),
        ([], "question: none is given and the input is empty"),
        (["<|video_pad|>"], "must not contain the model's"),
        (["What?", "--max-new-tokens", "0"], "max_new_tokens=0: must be"),
        (["What?", "--", "topk=1"], "topk: there is no such setting; did you mean top_k?"),
        (["What?", "--", "selector=atention"], "Could not find 'selector/atention'; Available"),
        (["What?", "--", "top_k"], "Error parsing override 'top_k'"),
        (["What?", "--", "top_k=[1,2]"], "top_k=[1, 2]: x2l-ask answers with one"),
        (["What?", "--", "top_k=gt"], "top_k=gt: must be told what a benchmark knows"),
        (["What?", "--", "selector=oracle"], "selector=oracle: must be told"),
        (["What?", "--", "selector=[none,all]"], "selector=['none', 'all']: x2l-ask answers"),
        (["What?", "--", "control=equal_kv_bytes"], "control=equal_kv_bytes: is for benchmarks"),
        (["What?", "--", "levels.low.ratio=0.5"], "levels.low.ratio=0.5: must be"),
        (["What?", "--", "prefill.chunk_frames=3"], "prefill.chunk_frames=3: must be a multiple"),
        (["What?", "--", "model.name_or_path=./nowhere"], "./nowhere: no such folder"),
    ],
)
def test_words_and_settings_that_cannot_work_are_one_line(capsys, video, words, message):
    refused(capsys, message, video, *words)


def test_a_folder_that_cannot_be_made_is_one_line(capsys, video, tmp_path):
    (tmp_path / "file").write_text("")
    refused(capsys, "--save", video, "What?", "--save", tmp_path / "file")


def test_a_checkpoint_without_weights_is_one_line(capsys, video, tmp_path):
    shutil.copytree(PACKAGED["x2l_tiny"], tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").unlink()
    refused(
        capsys, "model.name_or_path=", video, "What?", "--", f"model.name_or_path={tmp_path}/copy"
    )


@pytest.fixture(scope="module")
def short_model(tmp_path_factory):
    """x2l_tiny, said to be made for 300 positions."""
    folder = tmp_path_factory.mktemp("model") / "short"
    shutil.copytree(PACKAGED["x2l_tiny"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 300
    (folder / "config.json").write_text(json.dumps(config))
    return f"model.name_or_path={folder}"


def test_more_than_the_models_context_is_refused_before_the_prefill(
    capsys, video, short_model, monkeypatch
):
    monkeypatch.setattr(session, "prefill", None)
    words = "What is the colour of the ring? " * 40
    refused(capsys, "but the model's context has 300", video, words, "--", short_model)
    message = "max_new_tokens) and 83 KVs"
    refused(capsys, message, video, "What?", "--max-new-tokens", "300", "--", short_model)


def test_positions_count_where_few_frames_stand_for_much_time(
    capsys, tmp_path, short_model, monkeypatch
):
    """28 frames of 280 seconds: 239 tokens, but positions up to 275."""
    monkeypatch.setattr(session, "prefill", None)
    path = tmp_path / "slow.mp4"
    write_video(path, [np.full((64, 64, 3), 9 * n, np.uint8) for n in range(28)], 0.1)
    sparse = ["--max-new-tokens", "20", "--", "video.fps=null", "video.frames=28", short_model]
    refused(capsys, "question: its 8 tokens", path, "What?", *sparse)


def test_a_video_beyond_the_models_context_is_refused(capsys, video, short_model):
    longer = ["video.fps=2", "video.frames=64", short_model]
    refused(
        capsys,
        "use fewer frames (video.frames=)",
        video,
        "What?",
        "--max-new-tokens",
        "2",
        "--",
        *longer,
    )
    compact = ["prefill.context=high", "prefill.positions=compact"]
    code, out, _ = told(capsys, video, "What?", "--max-new-tokens", "2", "--", *longer, *compact)
    assert code == 0 and len(lines(out, "answer")) == 1


@pytest.mark.parametrize("place", ["prefill", "answers"])
def test_out_of_memory_is_one_line_with_what_to_change(capsys, video, monkeypatch, place):
    monkeypatch.setattr(session, place, lambda *_, **__: torch.empty(1 << 60))
    code, _, err = told(capsys, video, "What?", *FEW)
    assert code == 2
    last = err.splitlines()[-1]
    assert last.startswith("error: out of memory: ") and video in last
    assert "video.frames=16" in last and "chunk_frames=4" in last and "bfloat16" in last


def test_out_of_memory_while_reading(capsys, video, monkeypatch):
    monkeypatch.setattr("x2l.video._sample", lambda *_: np.empty(1 << 60, np.uint8))
    refused(capsys, "error: out of memory: reading", video, "What?")


def test_a_fault_of_ours_keeps_its_traceback(video, monkeypatch):
    def fault(*_, **__):
        raise ValueError("a fault")

    monkeypatch.setattr(session, "answers", fault)
    with pytest.raises(ValueError, match="a fault"):
        ask.main([video, "What?", *FEW])


def test_what_the_readme_types_composes():
    text = (Path(__file__).parents[3] / "README.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^x2l-ask .*", text, re.M)]
    assert commands
    for words in commands:
        composed(words[words.index("--") + 1 :] if "--" in words else [])


def test_no_video_is_told_how_to_use_it(capsys):
    code, _, err = told(capsys)
    assert code == 2 and "VIDEO is missing" in err


def test_refusals_come_before_what_is_slow_to_import(video):
    code = (
        "import sys\nfrom x2l.cli.ask.command import main\n"
        "try:\n    main(['none.mp4', 'What?'])\n"
        "except SystemExit as error:\n"
        "    print(error.code, *sorted({'transformers', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"]


# --- videos of other tools, other settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "options", "pix_fmt", "size"),
    [
        ("phone.mov", "libx265", H265, "yuv420p", (66, 98)),
        ("old.avi", "mpeg4", {"bf": "2"}, "yuv420p", (96, 64)),
        ("web.webm", "libvpx-vp9", {"deadline": "realtime"}, "yuv420p", (65, 97)),
        ("new.mkv", "libsvtav1", {"preset": "11"}, "yuv420p", (98, 66)),
    ],
)
def test_videos_of_other_tools(capsys, tmp_path, name, codec, options, pix_fmt, size):
    path = write(tmp_path / name, codec, options, pix_fmt, size, audio=name != "web.webm")
    frames = ["video.fps=5", "prefill.chunk_frames=6"]
    folder = tmp_path / "out"
    code, out, err = told(
        capsys, path, "What is the colour of the ring?", "--save", folder, "--", *frames
    )
    assert code == 0, err
    (facts,) = lines(out, "video")
    assert facts == f"{path}: 00:05, 24 frames of {size[0]} x {size[1]}, 4 chunks of 6"
    (sheet,) = folder.glob("*.png")
    assert imread(sheet).shape[1] == 1200
    (spans,) = lines(out, "re-loaded")
    edges = {"00:00.0", "00:01.2", "00:02.4", "00:03.6", "00:04.8"}
    assert set(re.findall(r"\d\d:\d\d\.\d", spans)) <= edges and "(2 of 4 chunks)" in spans


@pytest.fixture(scope="module")
def mkv(tmp_path_factory):
    path = tmp_path_factory.mktemp("mkv") / "video.mkv"
    return write(path, "libx264", {"bf": "2"}, "yuv420p", (66, 98))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_from_a_folder(capsys, tmp_path, mkv, family):
    """Random weights: what is said is noise, but said of the right chunks, at the right compute."""
    save(family, tmp_path / "model")
    own = ["video.fps=5", "prefill.chunk_frames=6", "selector=uniform", "top_k=1"]
    words = ["What?", "--max-new-tokens", "3", "--save", tmp_path]
    capsys.readouterr()
    code, out, err = told(capsys, mkv, *words, "--", f"model.name_or_path={tmp_path}/model", *own)
    assert code == 0, err
    assert "24 frames of 66 x 98, 4 chunks of 6" in lines(out, "video")[0]
    assert lines(out, "re-loaded") == ["00:02.4-00:03.6 (1 of 4 chunks)"]
    (reply,) = saved(tmp_path).values()
    assert 0 < reply["kv_bytes_stored"] < reply["kv_bytes_full"]
    assert 0 < reply["flops"] < reply["flops_full"]


class Means(Watch):
    def __init__(self):
        self.means = []

    def show(self, chunk, pixels):
        self.means.append(pixels.float().mean())

    def remembered(self):
        return torch.stack(self.means)


@dataclass(frozen=True)
class Brightness(FrameSelector):
    """The brightest chunk: looks at frames, once a video."""

    name: str = "brightness"

    def watch(self, meter):
        meter.add("retrieval", 7)
        return Means()

    def relevance(self, query, store, model, meter):
        assert query.text == query.question.text
        return query.prepared


def test_a_selector_that_looks_at_frames_is_shown_them(tmp_path):
    path = tmp_path / "steps.mp4"
    write_video(path, [np.full((64, 64, 3), 20 + 6 * n, np.uint8) for n in range(32)], 1)
    made = engine(["levels.high.ratio=4", "top_k=2"])
    model = made.load_model()
    frames = read_frames(path, 32, 1)
    prompt = model.prompt(frames, 8)
    levels = {"low": Level(ToMe(), 2), "high": Level(ToMe(), 4)}
    advice = MemoryAdvice.of(model, 8, "low")

    def opened_with(selector):
        (cell,) = cells({selector.name: selector}, made.settings)
        return own_video.open_video(model, frames, prompt, levels, cell, made.settings, advice)

    opened = opened_with(Brightness())
    reply = opened.ask("What?")
    assert reply.reloaded == (2, 3)
    assert list(reply.relevance) == sorted(reply.relevance)
    plain = opened_with(made.selectors["keys"])
    assert opened.flops == plain.flops + 7
