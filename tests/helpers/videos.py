"""Small videos and animations whose frames tell their numbers."""

import pytest
from PIL import Image


def frame(number, size=(48, 32)):
    """A picture that tells its number by its grey."""
    return Image.new("RGB", size, (number * 10,) * 3)


def animation(path, count, **options):
    frame(0).save(path, save_all=True, append_images=[frame(i) for i in range(1, count)], **options)
    return path


def video(path, count=24, rotation=0):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(count):
            picture = frame(i)
            if rotation:
                picture.paste((255, 0, 0), (0, 0, 48, 8))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))
    return path
