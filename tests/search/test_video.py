"""Frames of videos, by whatever means they come."""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip_core.processing.video import positions
from blip_core.search import sample_frames
from tests.helpers.videos import animation, frame, video


def numbers(pictures):
    return [round(np.asarray(picture.convert("RGB")).mean() / 10) for picture in pictures]


@pytest.mark.parametrize(
    ("count", "frames", "expected"),
    [
        (24, 8, [0, 3, 6, 9, 12, 15, 18, 21]),
        (20, 8, [0, 2, 5, 7, 10, 12, 15, 17]),
        (9, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (3, 8, [0, 1, 2]),
        (100, 1, [0]),
        (0, 8, []),
    ],
)
def test_positions_are_the_first_of_equal_parts(count, frames, expected):
    assert positions(count, frames) == expected


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "without_suffix"])
def test_animations(tmp_path, name):
    options = {"lossless": True} if name == "a.webp" else {"format": "GIF"} if "." not in name else {}
    path = animation(tmp_path / name, 20, **options)
    assert numbers(sample_frames(path)) == [0, 2, 5, 7, 10, 12, 15, 17]
    assert numbers(sample_frames(str(path), 3)) == [0, 6, 13]


def test_one_frame_is_a_picture(tmp_path):
    (found,) = sample_frames(animation(tmp_path / "a.gif", 1))
    assert numbers([found]) == [0]
    frame(3).save(tmp_path / "b.jpg")
    assert numbers(sample_frames(tmp_path / "b.jpg")) == [3]


def test_pages_are_no_frames(tmp_path):
    assert len(sample_frames(animation(tmp_path / "scan.tif", 5))) == 1


def test_photographs_are_turned_as_elsewhere():
    path = Path(__file__).parents[1] / "data" / "photos" / "coffee_turned.jpg"
    (turned,), (as_stored,) = sample_frames(path), sample_frames(path, apply_exif_orientation=False)
    assert turned.size == as_stored.size[::-1]


def test_a_folder_of_frames(tmp_path):
    for i in range(10):
        frame(i).save(tmp_path / f"{i:03}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / ".thumb.png").write_text("no frame")
    assert numbers(sample_frames(tmp_path, 4)) == [0, 2, 5, 7]


def test_a_video_file_by_its_decoder(tmp_path):
    for suffix in ("mp4", "mkv", "avi"):
        assert numbers(sample_frames(video(tmp_path / f"a.{suffix}"))) == [0, 3, 6, 9, 12, 15, 18, 21]


def test_a_video_of_a_turned_camera_is_upright(tmp_path):
    (found,) = sample_frames(video(tmp_path / "a.mp4", count=3, rotation=90), 1)
    pixels = np.asarray(found)
    assert found.size == (32, 48)
    assert pixels[:, 2, 0].mean() > 200 > 50 > pixels[:, -3, 0].mean()  # the stripe on top, counter-clockwise: left


@pytest.mark.parametrize("name", ["empty.mp4", "cut.mp4", "text.mkv", "empty.gif", "cut.gif", "text.png", "cut.png"])
def test_broken_files(tmp_path, name):
    path = tmp_path / name
    if path.suffix in (".mp4", ".mkv"):
        pytest.importorskip("av")
    content = {"empty": b"", "text": b"no video at all"}.get(path.stem)
    if content is None and path.suffix == ".mp4":
        content = video(tmp_path / "whole.mp4").read_bytes()[:900]
    if content is None:
        noise = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), np.uint8)
        whole = [Image.fromarray(pixels) for pixels in noise]
        whole[0].save(path, save_all=True, append_images=whole[1:])
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(OSError, match=name):
        sample_frames(path)


def test_the_number_of_frames_in_a_header_is_not_trusted(tmp_path):
    path = animation(tmp_path / "a.png", 4)
    data = path.read_bytes()
    at = data.index(b"acTL")
    chunk = b"acTL" + struct.pack(">II", 2**31 - 1, 0)
    path.write_bytes(data[:at] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at + 16 :])
    with pytest.raises(OSError, match=r"a\.png is not an animation that can be read whole"):
        sample_frames(path)


def test_videos_without_frames(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no frames: there are no pictures"):
        sample_frames(tmp_path / "empty")
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"sound\.mp4 has no frames: it holds no video"):
        sample_frames(tmp_path / "sound.mp4")


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile whole.mp4\n", "#EXTM3U\n#EXTINF:1,\nwhole.mp4\n"])
def test_a_playlist_opens_no_other_file(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    video("whole.mp4")
    Path("list.mp4").write_text(text)
    with pytest.raises(OSError, match=r"list\.mp4 is not a video that can be read"):
        sample_frames("list.mp4")


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"a\.mp4: video files need PyAV; pip install .blip-duo\[video\]"):
        sample_frames(tmp_path / "a.mp4")


def test_arguments_that_make_no_sense(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        sample_frames(tmp_path, 0)
    with pytest.raises(FileNotFoundError):
        sample_frames(tmp_path / "missing.gif")
    pytest.importorskip("av")
    with pytest.raises(FileNotFoundError):
        sample_frames(tmp_path / "missing.mp4")
