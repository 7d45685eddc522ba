"""Load a server, be hostile to it, stop it: python -m tests.bench.serving_load [STAGE ...] [--clients 32] ...

Each stage starts `blip serve` on a free port of this machine and ends with it, prints what it saw, and fails where an
answer is wrong, a request is lost or the server no longer serves:

    start     kill the server, start it again: seconds until it is ready
    load      one client, many, one again: requests a second, p50 and p99; then memory over 5,000 requests
    base      the same with fewer clients and a base-size model with random weights (its cache: BENCH_CACHE)
    hostile   1,000 hostile requests and 10,000 connections that are opened and left
    stop      SIGTERM in the middle of 8 requests

Every answer is compared with what `blip caption --json` prints for the same picture. The clients share a single thread
and know their requests beforehand, so that they take little of the machine's time.
"""

from __future__ import annotations

import argparse
import os
import random
import selectors
import signal
import socket
import time
from dataclasses import dataclass, field

import numpy as np

from tests.bench import speed_data
from tests.bench.serving_load_hostile import be_hostile
from tests.bench.serving_load_server import EMOJI, Row, Server, Work, received, whole


@dataclass
class Seen:
    """What clients saw."""

    seconds: float = 0
    cpu: float = 0
    times: list[float] = field(default_factory=list)
    wrong: list[tuple[int, bytes]] = field(default_factory=list)
    mine: float = 0

    @property
    def rate(self) -> float:
        return len(self.times) / self.seconds

    def row(self, name: str) -> str:
        p50, p99 = np.quantile(self.times, (0.5, 0.99)).tolist()
        each = 1000 / len(self.times)
        return (
            f"| {name} | {len(self.times)} | {self.rate:.1f} | {p50:.3f} s | {p99:.3f} s | {self.cpu * each:.1f} ms | "
            f"{self.mine * each:.1f} ms | {len(self.wrong)} |"
        )


HEADING = """| | requests | a second | p50 | p99 | server's CPU for each | clients' CPU for each | wrong |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def load(server: Server, work: Work, clients: int, seconds: float, least: int = 0) -> Seen:
    """Let clients ask one request after the other, for some time and until there were `least` requests."""
    seen, chosen = Seen(), selectors.DefaultSelector()
    begin, cpu, mine = time.monotonic(), server.cpu_seconds(), time.process_time()
    drawn, open_ = random.Random(clients), clients

    def ask(connection: socket.socket, state: Row) -> None:
        state.update(number=drawn.randrange(len(work.requests)), begin=time.monotonic(), answer=b"")
        connection.sendall(work.requests[state["number"]])

    for _ in range(clients):
        connection = server.connect()
        state: Row = {}
        chosen.register(connection, selectors.EVENT_READ, state)
        ask(connection, state)
    while open_:
        ready = chosen.select(60)
        assert ready, "no answer in 60 seconds"
        for key, _ in ready:
            part, state = key.fileobj.recv(2**16), key.data
            state["answer"] += part
            if (found := whole(state["answer"])) is None and part:
                continue
            now = time.monotonic()
            seen.times.append(now - state["begin"])
            status, body = found or (0, state["answer"])
            if not work.is_right(state["number"], status, body):
                seen.wrong.append((status, body))
            if found and (now - begin < seconds or len(seen.times) < least):
                ask(key.fileobj, state)
            else:
                chosen.unregister(key.fileobj)
                key.fileobj.close()
                open_ -= 1
    seen.seconds, seen.cpu = time.monotonic() - begin, server.cpu_seconds() - cpu
    seen.mine = time.process_time() - mine
    assert not seen.wrong, seen.wrong[:3]
    return seen


def measure_start(args: argparse.Namespace) -> None:
    server = Server()
    first = server.started
    server.process.kill()
    server.process.wait()
    again = Server()
    print(f"started in {first:.1f} s; killed and started again, ready in {again.started:.1f} s", end=", ")
    print(f"of which {again.cpu_seconds():.1f} s of CPU")
    again.stop()


def measure_load(args: argparse.Namespace) -> None:
    work = Work.of(EMOJI, [], 20)
    server = Server(*args.serve)
    load(server, work, 8, 3)  # warm
    before = server.megabytes()
    alone = load(server, work, 1, args.seconds / 6)
    many = load(server, work, args.clients, args.seconds)
    again = load(server, work, 1, args.seconds / 6)
    print(HEADING)
    for name, seen in (("1 client", alone), (f"{args.clients} clients", many), ("1 client again", again)):
        print(seen.row(name))
    single = (len(alone.times) + len(again.times)) / (alone.seconds + again.seconds)
    cpu = (alone.cpu + again.cpu) / (len(alone.times) + len(again.times)) / (many.cpu / len(many.times))
    print(f"{many.rate / single:.2f} times the requests of one client; {cpu:.2f} times by the server's CPU time")
    middle, done = server.megabytes(), sum(len(seen.times) for seen in (alone, many, again))
    if done < args.requests:
        load(server, work, args.clients, 0, args.requests - done)
    after, done = server.megabytes(), max(done, args.requests)
    print(f"memory: {before:.0f} MB before, {middle:.0f} MB after the load, {after:.0f} MB after {done} requests")
    server.stop()


def measure_base(args: argparse.Namespace) -> None:
    if not (speed_data.CACHE / "captioner" / "done").exists():
        speed_data.write_checkpoint("captioner")
    model = ["--model", str(speed_data.CACHE / "captioner")]
    work = Work.of(speed_data.PHOTOS, model, 6)
    server = Server(*model, "--no-page", *args.serve)
    load(server, work, 1, 3)
    print(HEADING)
    print(load(server, work, 1, args.seconds / 3).row("base size, 1 client"))
    print(load(server, work, 8, args.seconds / 2).row("base size, 8 clients"))
    print(f"memory: {server.megabytes():.0f} MB")
    server.stop()


def measure_stop(args: argparse.Namespace) -> None:
    work = Work.of(EMOJI[:8], [], 20)
    server = Server("--batch-size", "1")
    connections = [server.connect() for _ in work.requests]
    for connection, request in zip(connections, work.requests, strict=True):
        connection.sendall(request)
    answers = [received(connections[0])]  # the others are in work or waiting
    server.process.send_signal(signal.SIGTERM)
    answers += [received(connection) for connection in connections[1:]]
    right = [work.is_right(number, *answer) for number, answer in enumerate(answers)]
    print(f"SIGTERM in the middle of 8 requests: {sum(right)} of 8 answered")
    assert all(right)
    server.ended()


STAGES = {
    "start": measure_start,
    "load": measure_load,
    "base": measure_base,
    "hostile": be_hostile,
    "stop": measure_stop,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", choices=[[], *STAGES], metavar="STAGE", help=f"{', '.join(STAGES)} (all)")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--hostile", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=10000)
    parser.add_argument("--serve", nargs="*", default=[], metavar="OPTION", help="options of blip serve")
    args = parser.parse_args()
    for stage in args.stages or STAGES:
        print(f"\n{stage}: load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        begin = time.monotonic()
        STAGES[stage](args)
        print(f"{time.monotonic() - begin:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
