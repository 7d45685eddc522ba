"""Frames of videos: of files that Pillow or PyAV decodes, and of folders of pictures."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import numpy as np
from PIL import Image

from blip_core.processing.picture_files import is_picture_name, load_image, open_image
from blip_core.validators import whole_number

FRAMES = 8
"""How many frames represent a video, as in the original's evaluation."""

ANIMATIONS = ("AVIF", "GIF", "PNG", "WEBP")
"""Pillow's formats with frames in time, unlike the pages of a TIFF or the views of a stereo camera."""

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
"""Suffixes of video files."""

CONTAINERS = "asf,avi,matroska,mov,mp4,mpeg,mpegts,ogg,webm"
"""Formats that FFmpeg may detect: no playlists, which could name other files."""


def sample_frames(
    path: str | os.PathLike[str],
    frames: int = FRAMES,
    apply_exif_orientation: bool | None = None,
    least: int | None = None,
) -> list[Image.Image]:
    """Return frames of a video, spread evenly; a still picture is its only frame.

    Args:
        path: A video file (needs PyAV: `pip install "blip-duo[video]"`), an animated GIF, WebP, PNG or AVIF, any other
            picture, or a folder of pictures, which are frames in the order of their names.
        frames: How many to take of a video of `count` frames, at the indices floor(i * count / frames); a shorter
            video gives all of its frames.
        apply_exif_orientation: As in `load_image`.
        least: As in `load_image`, for pictures.

    Returns:
        The frames, in order.

    Raises:
        OSError: For a file that cannot be read.
        ValueError: For `frames` below 1, a folder without pictures, a file without a video, and where PyAV is missing.
    """
    whole_number("frames", frames, least=1)
    name = os.fspath(path)
    if os.path.isdir(name):
        pictures = frame_files(name)
        if not pictures:
            raise ValueError(f"{name} has no frames: there are no pictures in this folder.")
        return [load_image(pictures[i], apply_exif_orientation, least=least) for i in positions(len(pictures), frames)]
    if is_video_file(name):
        return video_frames(name, frames)
    return animation_frames(name, frames) or [load_image(name, apply_exif_orientation, least=least)]


def read_frames(processor: Any, video: Any, frames: int = FRAMES) -> np.ndarray:
    """Read and prepare frames of a video.

    Args:
        processor: The `BlipProcessor` of a model.
        video: The path of a video, or one picture in any form that the processor takes, which is its only frame.
        frames: As of `sample_frames`.

    Returns:
        The frames, float32 (n, 3, height, width).

    Raises:
        OSError: For a file that cannot be read.
        ValueError: As of `sample_frames`.
    """
    on_disk = isinstance(video, str | os.PathLike) and os.path.exists(video)
    images = processor.image_processor
    found = sample_frames(video, frames, images.apply_exif_orientation, images.least) if on_disk else [video]
    result: np.ndarray = processor(images=found, return_tensors="np")["pixel_values"]
    return result


def frame_files(folder: str) -> list[str]:
    """Return the paths of the pictures in a folder, in the order of their names."""
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if is_picture_name(name)]


def is_video_file(path: str) -> bool:
    """Say whether a file is a video, by its suffix."""
    return path.lower().endswith(VIDEOS)


def positions(count: int, frames: int) -> list[int]:
    """Return the indices of the frames to take of `count`, increasing and distinct."""
    return [i * count // frames for i in range(frames)] if count > frames else list(range(count))


def animation_frames(path: str, frames: int) -> list[Image.Image]:
    """Return frames of an animation that Pillow reads; none for any other file."""
    with ExitStack() as stack:
        try:
            image, _ = stack.enter_context(open_image(path))
        except Exception:
            return []  # not a picture: load_image raises the error
        try:
            count = getattr(image, "n_frames", 1) if image.format in ANIMATIONS else 1
            return [frame_at(image, position) for position in positions(count, frames)] if count > 1 else []
        except Exception as error:  # such as a truncated file, or one with fewer frames than its header says
            raise OSError(f"{path} is not an animation that can be read whole: {error}") from error


def frame_at(image: Image.Image, position: int) -> Image.Image:
    """Return a copy of one frame of an animation."""
    image.seek(position)
    return image.copy()


def video_frames(path: str, frames: int) -> list[Image.Image]:
    """Return frames of a video file, decoded by PyAV; raises as `sample_frames`."""
    try:
        import av
    except ImportError:
        raise ValueError(f'{path}: video files need PyAV; pip install "blip-duo[video]", or av.') from None
    with open(path, "rb") as file:  # given as an open file, so that FFmpeg opens no path itself
        try:
            with av.open(file, options={"format_whitelist": CONTAINERS}) as container:
                streams = container.streams.video
                # The number of frames in the header may be missing or wrong: count the packets.
                times = [packet.pts for packet in container.demux(streams[0])] if streams else []
                known = sorted(time for time in times if time is not None)
                chosen = [known[position] for position in positions(len(known), frames)]
                found = [frame_from(container, streams[0], time) for time in chosen]
        except Exception as error:  # FFmpeg's errors, and Python's where a broken file makes it seek out of range
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"{path} is not a video that can be read whole: {reason}") from error
    if not found:
        raise ValueError(f"{path} has no frames: it holds no video.")
    return found


def frame_from(container: Any, stream: Any, time: int) -> Image.Image:
    """Return the frame at a time (in the stream's units), or the nearest that can be decoded, upright."""
    container.seek(time, stream=stream)
    frame = None
    for frame in container.decode(stream):
        if frame.pts is not None and frame.pts >= time:
            break
    if frame is None:
        raise EOFError("it ends before its last frames")
    result: Image.Image = frame.to_image().rotate(getattr(frame, "rotation", 0), expand=True)
    return result
