"""Work in shards: who does which, and the same work by Ray."""

from functools import partial

import pytest

from blip_core.jobs.sharding import Done, OnRay, Share, work_through


def start(folder, broken=None):
    """Work on numbers that leaves a file for each, and counts it twice; one of them cannot be worked on."""

    def work(shard):
        if shard == broken:
            raise OSError(f"there is no room for {shard}")
        yield Done(1)
        (folder / str(shard)).write_text("done")
        yield Done(1, problems=shard % 2, shards=1)

    return work


@pytest.mark.parametrize(("shards", "of"), [(10, 1), (10, 3), (2, 5), (0, 2)])
def test_shares_are_all_of_it_and_nothing_twice(shards, of):
    taken = [Share(number + 1, of).take(range(shards)) for number in range(of)]
    assert sorted(shard for share in taken for shard in share) == list(range(shards))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1
    assert Share.parse(f"1/{of}") == Share(1, of)


@pytest.mark.parametrize("numbers", [(0, 1), (2, 1), (1, 0), (1.0, 2), (True, 1)])
def test_shares_that_are_none(numbers):
    with pytest.raises(ValueError, match="A share is I/N"):
        Share(*numbers)


def test_here(tmp_path):
    done = list(work_through(range(4), partial(start, tmp_path)))
    assert (sum(one.pictures for one in done), sum(one.problems for one in done)) == (8, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == list("0123")
    assert list(work_through([], lambda: pytest.fail("nothing is to be loaded"))) == []


@pytest.mark.parametrize(
    ("options", "said"), [({"actors": 0}, "actors"), ({"cpus": 0}, "cpus"), ({"gpus": -1}, "gpus")]
)
def test_options_of_ray(options, said):
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match=f"{said} must be"):
        OnRay(**options)


@pytest.mark.slow
def test_on_ray(tmp_path):
    ray = pytest.importorskip("ray")
    done = list(work_through(range(4), partial(start, tmp_path), OnRay(actors=2)))
    assert sorted(one[:2] for one in done) == [(2, 0), (2, 0), (2, 1), (2, 1)]
    assert all(one.worker for one in done)
    assert [one.shards for one in done] == [1] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == list("0123")
    with pytest.raises(OSError, match="there is no room for 5"):
        list(work_through(range(4, 8), partial(start, tmp_path, broken=5), OnRay()))
    assert not ray.is_initialized()
    with pytest.raises(ValueError, match="too little for one actor with 1000 and 0"):
        list(work_through([1], partial(start, tmp_path), OnRay(cpus=1000)))
    with pytest.raises(OSError, match=r"Ray cannot be reached at 127\.0\.0\.1:1: "):
        list(work_through([1], partial(start, tmp_path), OnRay("127.0.0.1:1")))
