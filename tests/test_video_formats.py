"""Videos as other tools make them: codecs, containers, turned, trimmed, cut, damaged."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from x2l import video
from x2l.video import VideoError, read_frames

FRAMES, FPS = 120, 25
H265 = {"x265-params": "log-level=none:keyint=12"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "12"}
# name -> codec, encoder's options, pixel format, (width, height)
FILES = {
    "h264 with B-frames.mp4": ("libx264", {"bf": "3", "g": "12"}, "yuv420p", (96, 64)),
    "h264 open GOP.mp4": (
        "libx264",
        {"bf": "3", "g": "12", "x264-params": "open-gop=1"},
        "yuv420p",
        (96, 64),
    ),
    "h264 intra refresh.mp4": (
        "libx264",
        {"x264-params": "intra-refresh=1:keyint=12"},
        "yuv420p",
        (96, 64),
    ),
    "h264 portrait, odd.mp4": ("libx264", {"bf": "2", "g": "12"}, "yuv444p", (65, 97)),
    "h264 transport stream.ts": ("libx264", {"bf": "3", "g": "12"}, "yuv420p", (96, 64)),
    "h264.flv": ("libx264", {"bf": "3", "g": "12"}, "yuv420p", (96, 64)),
    "hevc, open GOP by default.mp4": ("libx265", H265, "yuv420p", (96, 64)),
    "hevc 10 bit.mkv": ("libx265", H265, "yuv420p10le", (64, 96)),
    "mpeg4 with B-frames.avi": ("mpeg4", {"bf": "2", "g": "12", "b": "9M"}, "yuv420p", (96, 64)),
    "mpeg4, odd.avi": ("mpeg4", {"g": "12", "b": "9M"}, "yuv420p", (65, 97)),
    "mpeg2.mpg": ("mpeg2video", {"bf": "2", "g": "12", "b": "9M"}, "yuv420p", (96, 64)),
    "vp9, odd.webm": ("libvpx-vp9", VP9, "yuv420p", (65, 97)),
    "vp8.webm": ("libvpx", VP9, "yuv420p", (64, 96)),
    "av1.mp4": ("libsvtav1", {"preset": "11", "g": "12"}, "yuv420p", (96, 64)),
    "prores.mov": ("prores_ks", {}, "yuv422p10le", (64, 96)),
    "picture.gif": ("gif", {}, "rgb8", (96, 64)),
}


def picture(number, width, height):
    """A frame that says its number in 12 black or white fields."""
    image = np.full((height, width, 3), 40, np.uint8)
    for bit in range(12):
        row, column = divmod(bit, 4)
        if number >> bit & 1:
            image[field(row, 3, height), field(column, 4, width)] = 220
    return image


def field(place, places, size):
    return slice(place * size // places, (place + 1) * size // places)


def number(image):
    height, width, _ = image.shape
    bits = [
        image[field(bit // 4, 3, height), field(bit % 4, 4, width)][5:-5, 5:-5].float().mean() > 130
        for bit in range(12)
    ]
    return sum(1 << bit for bit, on in enumerate(bits) if on)


def write(path, codec, options, pix_fmt, size, first=0, audio=False):
    """FRAMES pictures, the first at `first` milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.thread_count = 1
        if audio:
            sound = container.add_stream("aac", rate=8000)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 40000), np.float32), "fltp", "mono")
            silence.sample_rate = 8000
            container.mux(sound.encode(silence))
            container.mux(sound.encode())
        for count in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(count, *size), format="rgb24")
            frame.pts = count + round(first * FPS / 1000)
            frame.time_base = Fraction(1, FPS)
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """The file of a name, written once."""
    folder = tmp_path_factory.mktemp("formats")

    def file(name):
        return folder / name if (folder / name).exists() else write(folder / name, *FILES[name])

    return file


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_that_were_asked_for(name, encoded):
    """One by one and with jumps: where GOPs are open a decoder that counts frames is off by some."""
    path, size = encoded(name), FILES[name][-1]
    for frames in (FRAMES, 7, 2):
        found = read_frames(path, frames, None)
        wanted = np.linspace(0, FRAMES - 1, frames, dtype=int).tolist()
        assert [number(image) for image in found.pixels] == wanted
        assert found.seconds.tolist() == pytest.approx([n / FPS for n in wanted], abs=2e-3)
        assert found.pixels.shape[1:] == (size[1], size[0], 3)


@pytest.mark.parametrize("name", FILES)
def test_decord_gives_the_same_frames_or_is_refused(name, encoded):
    """It counts frames, which is right where no picture stands before the key frame that it follows."""
    path = encoded(name)
    for frames in (FRAMES, 7, 2):
        try:
            found = read_frames(path, frames, None, "decord")
        except VideoError as error:
            assert "use video.reader=pyav" in str(error)
            assert name not in ("h264 with B-frames.mp4", "mpeg4, odd.avi", "vp9, odd.webm")
            return
        wanted = np.linspace(0, FRAMES - 1, frames, dtype=int).tolist()
        assert [number(image) for image in found.pixels] == wanted
        assert found.reader == "decord"
    assert name != "hevc, open GOP by default.mp4"


def test_an_unknown_reader_is_refused(tmp_path):
    with pytest.raises(ValueError, match="video.reader='cv2': must be one of .*use 'pyav'"):
        read_frames(tmp_path / "film.mp4", 2, None, "cv2")


def test_joined_files_are_read_in_their_order_or_refused(tmp_path):
    """By their time stamps; never are the frames of one mixed with those of the other."""
    h264 = ("libx264", {"bf": "3", "g": "12"}, "yuv420p", (96, 64))
    mpeg = ("mpeg2video", {"bf": "2", "b": "9M"}, "yuv420p", (96, 64))
    avi = ("mpeg4", {"bf": "2", "b": "9M"}, "yuv420p", (96, 64))
    # name -> the file, when the second part begins (ms), what is said; None = read, the second behind the first
    parts = {
        "again.ts": (h264, 0, "its time stamps start again after 4.8 s"),
        "overlapping.ts": (h264, 4000, "its time stamps start again after 4.8 s"),
        "right behind.ts": (h264, 4880, None),
        "two frames over.ts": (h264, 4800, "its time stamps start again after 4.8 s"),
        "hours later.ts": (h264, 7_200_000, "7195 s pass between two of its pictures"),
        "again.mpg": (mpeg, 0, "its time stamps start again"),
        "again.mkv": (h264, 0, "its time stamps start again after 4.8 s"),
        "again.mp4": (h264, 0, "a second video begins behind its first"),
        "again.flv": (h264, 0, "a second video begins behind its first"),
        "again.avi": (avi, 0, None),
    }
    for name, (how, begin, said) in parts.items():
        first = write(tmp_path / f"one {name}", *how).read_bytes()
        second = write(tmp_path / f"two {name}", *how, first=begin).read_bytes()
        path = tmp_path / name
        path.write_bytes(first + second)
        if said is None:
            found = [number(image) for image in read_frames(path, 10, None).pixels]
            again = next(at for at in range(1, 10) if found[at] < found[at - 1])
            assert found[:again] == sorted(found[:again]) and found[0] == 0, name
            assert found[again:] == sorted(found[again:]) and found[-1] == FRAMES - 1, name
            assert again == 5, name
        else:
            with pytest.raises(VideoError, match=said):
                read_frames(path, 8, None)


def test_wherever_the_time_begins_whole_files_are_read_and_cut_ones_refused(tmp_path):
    """MPEG's clock of 33 bits starts again every 26.5 hours; containers tell a length, or the time of the end."""
    how = ("libx264", {"bf": "3", "g": "12"}, "yuv420p", (96, 64))
    wrap = round((1 << 33) / 90) - 2000
    for name in ("0.mkv", "0.flv", "3600000.mkv", "3600000.flv", f"{wrap}.ts"):
        first, path = int(name.partition(".")[0]), tmp_path / name
        content = write(path, *how, first=first, audio=name == "0.mkv").read_bytes()
        found = read_frames(path, None, 1.0)
        assert [number(image) for image in found.pixels] == [0, 25, 50, 75, 100], name
        assert found.duration == pytest.approx(4.8, abs=0.05)
        if not name.endswith(".ts"):  # which tells no length
            path.write_bytes(content[: len(content) // 2])
            with pytest.raises(VideoError, match=r"cut short: \d\.\d of \d\.\d seconds"):
                read_frames(path, None, 1.0)
    # With an index in front, as the web has it: a cut file has lost none of it.
    path = tmp_path / "indexed.webm"
    with av.open(
        str(path), "w", options={"cues_to_front": "1", "cluster_time_limit": "200"}
    ) as file:
        stream = file.add_stream("libvpx", rate=FPS, options=dict(VP9))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for count in range(FRAMES):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(count, 96, 64), "rgb24")))
        file.mux(stream.encode())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError, match="cut short: .* seconds"):
        read_frames(path, None, 1.0)


def test_a_file_may_have_any_name(tmp_path, monkeypatch):
    """`12:30.mp4` and `data:a.mp4` would be protocols of FFmpeg, %d a number; not every name is UTF-8."""
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", "data:a.mp4", "-i.mp4", "a=b [1]%d 数据.mp4", "\udcff.mp4"):
        video.write_video(name, [picture(count, 96, 64) for count in range(3)], FPS)
        for reader in ("pyav", "decord")[: 1 + name.isascii()]:
            found = read_frames(name, None, FPS, reader)
            assert ([number(image) for image in found.pixels], found.path) == ([0, 1, 2], name)


def test_a_sound_track_changes_nothing(tmp_path):
    plain, sounding = tmp_path / "plain.mp4", tmp_path / "sounding.mp4"
    for path in (plain, sounding):
        write(path, "libx264", {"bf": "3"}, "yuv420p", (96, 64), audio=path is sounding)
    first, second = read_frames(plain, None, 4.0), read_frames(sounding, None, 4.0)
    assert (first.pixels == second.pixels).all() and len(av.open(str(sounding)).streams) == 2
    assert first.seconds.tolist() == second.seconds.tolist()


@pytest.mark.parametrize("name", ["late.mkv", "late.mp4", "late.ts"])
def test_seconds_count_from_the_first_frame(name, tmp_path):
    path = write(tmp_path / name, "libx264", {"bf": "3"}, "yuv420p", (96, 64), first=5000)
    found = read_frames(path, None, 1.0)
    assert found.seconds.tolist() == pytest.approx([0, 1, 2, 3, 4], abs=1e-3)
    assert [number(image) for image in found.pixels] == [0, 25, 50, 75, 100]
    assert found.duration == pytest.approx(4.8, abs=0.05)


def test_few_frames_of_a_long_video_are_cheap(tmp_path, monkeypatch):
    path = write(tmp_path / "long.mp4", "libx264", {"bf": "2", "g": "12"}, "yuv420p", (96, 64))
    decoded = []
    frames = video._Walk._frames
    monkeypatch.setattr(
        video._Walk, "_frames", lambda self: (decoded.append(f) or f for f in frames(self))
    )
    read_frames(path, 3, None)
    assert 3 <= len(decoded) <= 3 * 12


ONE = 1 << 16
# Display matrices and where the corners red (top left) and blue (bottom left) are then seen.
TURNS = {
    "quarter": ((0, ONE, 0, -ONE, 0, 0), "top right", "top left"),
    "half": ((-ONE, 0, 0, 0, -ONE, 0), "bottom right", "top right"),
    "three quarters": ((0, -ONE, 0, ONE, 0, 0), "bottom left", "bottom right"),
    "mirrored": ((-ONE, 0, 0, 0, ONE, 0), "top right", "bottom right"),
    "upside down": ((ONE, 0, 0, 0, -ONE, 0), "bottom left", "top left"),
    "mirrored and turned": ((0, ONE, 0, ONE, 0, 0), "top left", "top right"),
}
CORNERS = {
    "top left": (8, 8),
    "top right": (8, -8),
    "bottom left": (-8, 8),
    "bottom right": (-8, -8),
}


@pytest.mark.parametrize("turn", TURNS)
def test_pictures_stand_as_players_show_them(turn, tmp_path):
    matrix, red, blue = TURNS[turn]
    path = tmp_path / "turned.mp4"
    image = np.full((64, 96, 3), 120, np.uint8)
    image[:16, :16], image[-16:, :16] = (255, 0, 0), (0, 0, 255)
    video.write_video(path, [image] * 3, FPS)
    content = bytearray(path.read_bytes())
    struct.pack_into(">6i", content, content.find(b"tkhd") + 44, *matrix)
    path.write_bytes(content)
    (seen,) = read_frames(path, 1, None).pixels
    assert seen.shape == ((96, 64, 3) if matrix[0] == 0 else (64, 96, 3))
    assert seen[CORNERS[red]].tolist() == pytest.approx([255, 0, 0], abs=12)
    assert seen[CORNERS[blue]].tolist() == pytest.approx([0, 0, 255], abs=12)


def test_a_trimmed_clip_starts_where_it_was_trimmed(tmp_path):
    """Phones trim with an edit list; what it hides is still in the file."""
    path = write(tmp_path / "clip.mp4", "libx264", {"bf": "3", "g": "12"}, "yuv420p", (96, 64))
    content = bytearray(path.read_bytes())
    entry = content.find(b"elst") + 12  # seconds / 1000 shown, first time shown in stream units
    shown, start = struct.unpack_from(">ii", content, entry)
    assert shown == 1000 * FRAMES // FPS
    struct.pack_into(">ii", content, entry, 1000 * 50 // FPS, start + 40 * 512)
    path.write_bytes(content)
    found = read_frames(path, None, 5.0)
    assert [number(image) for image in found.pixels] == list(range(40, 90, 5))
    assert found.duration == pytest.approx(2.0)


def test_a_recording_that_begins_between_key_frames_starts_at_the_first_one(tmp_path):
    options = {"bf": "2", "g": "24", "sc_threshold": "0"}
    whole = write(tmp_path / "whole.ts", "libx264", options, "yuv420p", (96, 64))
    path = tmp_path / "joined.ts"
    content = whole.read_bytes()
    packets = len(content) // 188
    path.write_bytes(content[: 3 * 188] + content[packets // 4 * 188 :])  # tables, then the middle
    found = read_frames(path, 4, None)
    assert number(found.pixels[0]) % 24 == 0 and number(found.pixels[-1]) == FRAMES - 1


def cover_picture(path):
    """A song with its cover."""
    with av.open(str(path), "w", format="mp3") as container:
        sound = container.add_stream("libmp3lame", rate=44100)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        for packet in [*cover.encode(image.reformat(format="yuvj420p")), *cover.encode()]:
            container.mux(packet)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), "fltp", "mono")
        silence.sample_rate = 44100
        container.mux(sound.encode(silence))
        container.mux(sound.encode())


def raw(path):
    write(path.with_suffix(".h264"), "libx264", {"bf": "3"}, "yuv420p", (96, 64)).rename(path)


def cut(path):
    whole = write(path.with_suffix(".mkv"), "libx264", {}, "yuv420p", (96, 64), audio=True)
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def cut_without_its_index(path):
    whole = write(path.with_suffix(".avi"), "mpeg4", {}, "yuv420p", (96, 64))
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damaged(path):
    whole = write(path.with_suffix(".mp4"), "libx265", H265, "yuv420p", (96, 64))
    content = bytearray(whole.read_bytes())
    start = content.find(b"mdat")
    size = int.from_bytes(content[start - 4 : start])
    for place in range(start + size // 2, start + size * 3 // 4, 3):
        content[place] ^= 0x5A
    path.write_bytes(content)


def scratched(path):
    """The decoder makes up what is missing: a picture, but not the file's."""
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 256, (30, 80, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    video.write_video(path, (texture[:, n : n + 320] for n in range(FRAMES)), FPS)
    content = bytearray(path.read_bytes())
    for place in rng.integers(len(content) // 2, len(content) * 3 // 4, 40):
        content[place] ^= 0xFF
    path.write_bytes(content)


BAD = {
    "a song with a cover": (cover_picture, "no video stream"),
    "a raw stream": (raw, "no time stamps"),
    "a cut file that counts seconds": (cut, r"cut short: \d\.\d of \d\.\d seconds"),
    "a cut file that counts frames": (cut_without_its_index, r"cut short: \d+ of 120 frames"),
    "a few bytes turned over": (scratched, r"damaged: the frame at \d\.\d\d s"),
    "bytes turned over": (damaged, r"damaged: the frame at \d\.\d\d s"),
}


def test_a_text_file_is_no_video(tmp_path):
    """FFmpeg draws the letters of a .txt file."""
    (tmp_path / "notes.txt").write_text("not a video\n" * 99)
    with pytest.raises(VideoError, match="not a video but a text"):
        read_frames(tmp_path / "notes.txt", 60, None)


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_whole_is_refused(case, tmp_path):
    make, reason = BAD[case]
    make(tmp_path / "bad")
    with pytest.raises(VideoError, match=reason):
        read_frames(tmp_path / "bad", 60, None)
