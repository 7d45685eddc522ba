"""Results in an object store: whole or absent, also through broken connections."""

import pytest

from blip_core.cli import main
from blip_core.files import read_json, write_json
from blip_core.stores import StorePath, on_disk
from tests.helpers.published_forms import karpathy


@pytest.mark.parametrize("fault", ["error", "slow"])
def test_an_object_appears_whole_or_not_at_all(store, fault):
    store.fail(fault, "a.json", times=2, method="PUT")
    write_json("s3://photos/out/a.json", {"a": 1})
    assert read_json("s3://photos/out/a.json") == {"a": 1}
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json("s3://photos/out/a.json", {"a": object()})
    assert read_json("s3://photos/out/a.json") == {"a": 1}
    store.server.faults.clear()
    store.fail("error", "a.json", times=100, method="PUT")
    with pytest.raises(OSError, match=r"s3://photos/out/a\.json cannot be .*; 5 attempts ended with"):
        write_json("s3://photos/out/a.json", {"a": 2})
    assert read_json("s3://photos/out/a.json") == {"a": 1}


def test_paths_remove_and_find(store):
    for name in ("a.txt", "sub/b.txt", "sub/c.json"):
        store.put(f"out/{name}", b"a")
    folder = StorePath("s3://photos/out")
    assert [path.name for path in folder.rglob("*.txt")] == ["a.txt", "b.txt"]
    assert ((folder / "a.txt").stem, (folder / "a.txt").parent) == ("a", folder)
    (folder / "a.txt").unlink()
    (folder / "a.txt").unlink(missing_ok=True)
    assert not (folder / "a.txt").exists()
    with pytest.raises(ValueError, match="this is written to disks alone"):
        on_disk("s3://photos/out")


def test_single_results_go_to_the_store(store, tmp_path, capsys):
    path = karpathy(tmp_path)
    assert main(["data", "check", str(path), "--split", "test", "--html", "s3://photos/page.html"]) == 0
    assert store.backend.get_object("photos", "page.html").value.count(b"data:image/jpeg") == 3
