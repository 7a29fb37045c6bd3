"""Size, time and memory of a checkpoint, from 10^6 to 10^9 parameters.

A state consists of the weights and the momentum of square matrices, both in float32. It is saved as
a run does it (SHA-256, fsync, renaming), and loaded again, each in a process of its own. The memory
is the peak of the process minus its memory before, in multiples of the state: the state itself does
not count when it is saved, and counts when it is loaded. A copy of the file in the system's cache
does not count.
"""

# mypy: disable-error-code="import-not-found, no-untyped-call"
# (the payload's modules are imported at run time)

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
SIZES = (10**6, 10**7) if os.environ.get("QUICK") else (10**6, 10**7, 10**8, 10**9)
MAX_MATRIX_SIZE = 4096


def memory(name: str) -> int:
    """Returns an entry of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def measure(action: str, count: int, path: Path) -> None:
    """Saves or loads a state of `count` parameters; prints seconds and bytes as JSON."""
    sys.path.insert(0, str(PAYLOAD))
    import torch
    from storage.checkpoint_file import load_checkpoint, save_checkpoint

    size = min(MAX_MATRIX_SIZE, round(count**0.5))
    matrices = round(count / size**2)
    state = {}
    if action == "save":
        for kind in ("model", "optimizer"):
            state[kind] = {str(number): torch.randn(size, size) for number in range(matrices)}
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    start = time.perf_counter()
    if action == "save":
        save_checkpoint(path, state)
    else:
        state = load_checkpoint(path)
    seconds = time.perf_counter() - start
    state_bytes = 2 * matrices * size**2 * 4
    memory_bytes = max(0, memory("VmHWM") - before)
    print(json.dumps({"seconds": seconds, "memory": memory_bytes / state_bytes}))


def main() -> None:
    """Prints the table."""
    if len(sys.argv) > 1:
        measure(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
        return
    print("parameters      file     save  GB/s  more memory    load  GB/s       memory")
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as name:
        path = Path(name) / "checkpoint.pt"
        for count in SIZES:
            found = []
            for action in ("save", "load"):
                command = [sys.executable, __file__, action, str(count), str(path)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found.append(json.loads(done.stdout))
            size = path.stat().st_size / 1e9
            cells = [f"{count:13,} {size:6.3f} GB"]
            for result in found:
                seconds = result["seconds"]
                cells.append(f"{seconds:6.2f} s {size / seconds:5.2f} {result['memory']:10.2f} ×")
            print(" ".join(cells))
            path.unlink()


if __name__ == "__main__":
    main()
