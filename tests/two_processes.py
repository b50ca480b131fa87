"""A run of this machine's: by one process, or shared by two over gloo."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

RUN = """
import sys
from text2video.config import RunConfig
from text2video.training.trainer import train
print("ready", flush=True)
train(RunConfig.build({}, [*sys.argv[2:], "--output_dir", sys.argv[1]]), resume=True)
"""
"""A script: begin the run in a folder, its first argument, or go on with it; it says `ready` once imports are done."""


def run_in_two(folder: Path, arguments: list[str], script: str = RUN) -> None:
    """A script with these arguments in two processes, to its end; one that fails ends the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    shared |= {"ACCELERATE_USE_CPU": "true", "LOCAL_WORLD_SIZE": "2"}
    said = [folder.with_name(f"{folder.name}-{rank}.txt") for rank in range(2)]
    processes = []
    for rank, path in enumerate(said):
        with path.open("w") as file:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", script, str(folder), *arguments],
                    env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            )
    end = time.monotonic() + 300
    while None in (codes := [process.poll() for process in processes]) and not any(codes) and time.monotonic() < end:
        time.sleep(0.05)
    for process in processes:
        process.kill()  # does nothing to one that has ended
    assert codes == [0, 0], "\n".join(path.read_text()[-4000:] for path in said)
