"""`blip status`: how far the jobs are that write to a folder or file."""

from __future__ import annotations

import argparse
import time
from datetime import timedelta
from typing import Any

from blip_core.cli.parser import CommandParser
from blip_core.cli.report import json_line, printable
from blip_core.jobs.progress import EVERY, FAILED, WORKING, progress_folder, read_progress
from blip_core.stores import to_path


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "PATH [options]",
        "Say how far the jobs are that write to a folder or a file, also in a store: capfilt, caption, search --index, "
        "evaluate --output and train. The exit code is 1 where one failed or was killed.",
        "blip status clean/",
        "blip status s3://bucket/clean --json",
    )
    parser.add_argument("path", metavar="PATH", help="the output of the job, or the index of a search")
    parser.add_argument("--follow", action="store_true", help="look again every few seconds until no job is at work")
    parser.add_argument("--json", action="store_true", help="print one JSON object each time")


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Look once, or until the jobs have ended; returns the exit code. Raises `OSError` where nothing is there."""
    path = to_path(args.path).expanduser()
    while True:
        folder = progress_folder(path)
        jobs = list(read_progress(folder).values())
        if not jobs and not path.exists() and not folder.exists():
            raise FileNotFoundError(f"{args.path} does not exist, and no job has begun to write it.")
        now = time.time()
        if args.json:
            print(json_line({"path": args.path, "time": now, "jobs": jobs}), end="", flush=True)
        else:
            lines = [line for job in jobs for line in in_lines(job, now)] or [f"{args.path}: no job is at work"]
            print("".join(f"{printable(line)}\n" for line in lines), end="", flush=True)
        if not args.follow or not any(job["state"] == WORKING for job in jobs):
            return 1 if any(job["state"] != WORKING for job in jobs) else 0
        time.sleep(EVERY)


def in_lines(job: dict[str, Any], now: float) -> list[str]:
    """What a job says, for people."""
    unit, ago = job["unit"], timedelta(seconds=round(max(0, now - job["updated"])))
    states = {
        WORKING: f"at work, as of {ago} ago",
        FAILED: f"failed {ago} ago: {job['error']}",
    }
    state = states.get(job["state"], f"has said nothing for {ago}: it was killed, or its machine is gone")
    share = f" ({job['done'] / job['total']:.1%})" if job["total"] else ""
    before = f", {job['before']:,} of them before" if job["before"] else ""
    stage = f", {job['stage']}" if job["stage"] else ""
    lines = [
        f"{job['command']}{stage}: {state}",
        f"  done      {job['done']:,} of {job['total']:,} {unit}s{share}{before}",
    ]
    if job["rate"] is not None and job["left"] is not None:
        lines.append(f"  rate      {job['rate']:.2f} {unit}s a second; {timedelta(seconds=round(job['left']))} left")
    return [
        *lines,
        f"  read      {job['bytes'] / 1e6:,.1f} MB of pictures",
        f"  workers   {job['workers']}, begun by process {job['pid']} on {job['host']}",
        f"  problems  {job['problems']:,}",
    ]
