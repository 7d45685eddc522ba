"""Shards made to mislead: links, devices, sizes that are not true, headers that lead nowhere."""

import io
import os
import tarfile

import pytest

from blip_core.datasets import open_dataset
from tests.helpers.data_files import picture_bytes, write_tar

GOOD = {"good.png": picture_bytes(), "good.txt": b"a dog"}


def good_and(path, change):
    """A shard of a good example and what `change` adds to it."""
    write_tar(path, GOOD, format=tarfile.GNU_FORMAT)
    with tarfile.open(path, "a") as tar:
        change(tar)
    return path


def header(name, size, kind=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, link
    return member


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE],
    ids=lambda k: k.decode(),
)
def test_links_and_devices_are_passed_over(tmp_path, kind):
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture_bytes())
    path = good_and(tmp_path / "a.tar", lambda tar: tar.addfile(header("bad.png", 0, kind, str(secret))))
    with tarfile.open(path, "a") as tar:
        tar.addfile(header("bad.txt", 1), io.BytesIO(b"a"))
    data = open_dataset(path, "caption")
    assert [example.key for example in data] == ["a.tar:good"]
    assert data.problems == [("a.tar:bad", "has no picture beside it")]


def test_names_lead_nowhere(tmp_path):
    outside = f"../{tmp_path.name}.png"
    members = {
        outside: picture_bytes(),
        outside.replace("png", "txt"): b"a",
        "/etc/a.png": picture_bytes(),
        "/etc/a.txt": b"b",
    }
    data = open_dataset(write_tar(tmp_path / "a.tar", members), "caption")
    assert len(data) == 2
    assert {example.images[0].path for example in data} == {str(tmp_path / "a.tar")}
    assert data[0].images[0].load().size == (24, 18)


def raw(member, size_field=None):
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT)[:512])
    if size_field is not None:
        block[124:136] = size_field
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def number(value):
    """A size as tar writes those that octal digits cannot."""
    return value.to_bytes(12, "big", signed=True) if value < 0 else b"\x80" + value.to_bytes(11, "big")


LONG, PAX = header("long", 0, tarfile.GNUTYPE_LONGNAME), header("pax", 30, tarfile.XHDTYPE)


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param([raw(header("bad.png", 10**6))], id="larger than the file"),
        pytest.param([raw(header("bad.png", 0), number(2**87))], id="larger than any file"),
        pytest.param([raw(header("bad.png", 0), number(-1))], id="negative"),
        pytest.param([raw(header("bad.png", 0), number(-512))], id="negative, to its own header"),
        pytest.param([raw(header("bad", 0, b"Z"), number(-512))], id="of an unknown kind, negative"),
        pytest.param([raw(LONG, number(2**50))], id="a long name of petabytes"),
        pytest.param([raw(LONG)] * 10_000, id="long names of long names"),
        pytest.param([raw(PAX, number(-512))], id="attributes of negative size"),
        pytest.param([raw(PAX), b"99999999999999 path=".ljust(512, b"\0")], id="attributes of no sense"),
        pytest.param(
            [raw(PAX), b"30 size=99999999999999999999\n\n".ljust(512, b"\0"), raw(header("bad.png", 0))],
            id="attributes with a size",
        ),
        pytest.param([b"\xee" * 512], id="rubbish"),
        pytest.param([b"bad.png" + b"\0" * 100], id="half a header"),
    ],
)
def test_a_damaged_shard_gives_what_lies_before(tmp_path, blocks):
    path = write_tar(tmp_path / "a.tar", GOOD)
    with open(path, "rb") as file, tarfile.open(fileobj=file) as tar:
        end = [tar.offset for _ in tar][-1]
    path.write_bytes(path.read_bytes()[:end] + b"".join(blocks))
    data = open_dataset(path, "caption")
    assert [example.key for example in data] == ["a.tar:good"]
    [(where, reason)] = data.problems
    assert where == "a.tar"
    assert reason.startswith("the shard is damaged; what lies before is used")


def test_a_header_has_a_greatest_size(tmp_path):
    size = 2**21
    path = write_tar(tmp_path / "a.tar", {**GOOD, "a" * size: b""}, format=tarfile.GNU_FORMAT)
    data = open_dataset(path, "caption")
    assert len(data) == 1
    assert f"a header says that it has {size + 512} bytes" in data.problems[0][1]


def test_a_shard_that_is_cut_off(tmp_path):
    members = {f"{n}.{end}": data for n in range(3) for end, data in (("txt", b"a dog"), ("png", picture_bytes(n)))}
    path = write_tar(tmp_path / "a.tar", members)
    with tarfile.open(path) as tar:
        last = tar.getmember("2.png")
    os.truncate(path, last.offset_data + last.size - 1)
    data = open_dataset(path, "caption")
    assert [example.key for example in data] == ["a.tar:0", "a.tar:1"]
    assert [where for where, _ in data.problems] == ["a.tar", "a.tar:2"]
    os.truncate(path, 100)
    with pytest.raises(ValueError, match=r"a\.tar: the shard is damaged"):
        open_dataset(path, "caption")


def test_texts_and_pictures_have_a_greatest_size(tmp_path, monkeypatch):
    monkeypatch.setattr("blip_core.datasets.shards.MAX_PICTURE_BYTES", len(GOOD["good.png"]))
    members = {
        **GOOD,
        "a.png": picture_bytes(),
        "a.txt": b" " * (2**20 + 1),
        "b.png": GOOD["good.png"] + b"0",
        "b.txt": b"b",
    }
    data = open_dataset(write_tar(tmp_path / "a.tar", members), "caption")
    assert [example.key for example in data] == ["a.tar:good"]
    assert [where for where, _ in data.problems] == ["a.tar:a.txt", "a.tar:b.png", "a.tar:a", "a.tar:b"]


def test_sparse_members_are_passed_over(tmp_path):
    block = bytearray(raw(header("bad.png", 0, tarfile.GNUTYPE_SPARSE)))
    block[483:495] = b"%011o\0" % 2**30
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(block) + write_tar(tmp_path / "b.tar", GOOD).read_bytes())
    assert [example.key for example in open_dataset(path, "caption")] == ["a.tar:good"]
