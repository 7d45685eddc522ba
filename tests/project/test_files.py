"""Files are whole or absent, have the permissions that the process gives, and nothing of the process is changed."""

from __future__ import annotations

import os
import stat

import pytest

from blip_core.files import TEMPORARY, atomic_path, read_json, write_json
from conversion.destination import staged


def test_writing_never_sets_the_umask(tmp_path, monkeypatch):
    def refuse(mask):
        raise AssertionError("the umask belongs to all threads")

    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", refuse)
            write_json(tmp_path / "settings.json", {"a": 1})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "settings.json").stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "a.json"])
def test_temporary_names_fit_where_the_name_fits(tmp_path, name):
    with atomic_path(tmp_path / name) as temporary:
        assert temporary.match(TEMPORARY)
        temporary.write_text("whole")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "whole")]


def test_what_fails_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "a.json", {"a": object()})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("name", ["model", "n" * 250])
def test_a_link_as_destination_is_followed(tmp_path, name):
    (tmp_path / "link").symlink_to(name)
    for value in (1, 2):  # not there yet; replaced
        with staged(tmp_path / "link") as temporary:
            write_json(temporary / "config.json", {"a": value})
        assert (tmp_path / "link").is_symlink()
        assert read_json(tmp_path / name / "config.json") == {"a": value}
    assert sorted(os.listdir(tmp_path)) == sorted(["link", name])


@pytest.mark.parametrize("content", ["{", '{"a": ' + "1" * 5000 + "}", "[" * 100_000, "[1]", "\udcff"])
def test_damaged_json_is_one_sentence(tmp_path, content):
    (tmp_path / "a.json").write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"a\.json (is not valid JSON|must hold a JSON object)"):
        read_json(tmp_path / "a.json")
