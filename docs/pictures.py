"""Creates the README's pictures from a real run: python docs/pictures.py.

The script renders a project with the default answers, trains it with the default settings and
evaluates it in a terminal; it also trains PyTorch's tutorial. Then it takes screenshots of the
terminal and of TensorBoard. This takes one to two minutes.

Requirements: the environment that `make test` creates, Chromium, a monospaced font, FashionMNIST
(`DATA_ROOT` or network access), and two more packages::

    sudo apt-get install chromium fonts-dejavu-core
    .venv/bin/uv pip install --python .venv playwright pyte
    .venv/bin/python docs/pictures.py
"""

import base64
import html
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import pyte
from PIL import Image
from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).resolve().parent
PROJECT = "my-project"
WIDTH = 880  # CSS pixels; the width of a README on GitHub
COLUMNS = 120  # characters; the confusion matrix needs 116
MAX_PICTURE_SIZE = 300_000  # bytes

STYLE = """
main { width: WIDTHpx }
.window { background: #0d1117; border-radius: 8px; margin-bottom: 10px; overflow: hidden }
.window:last-child { margin: 0 }
.bar { background: #21262d; padding: 8px 12px; height: 11px }
.bar i { float: left; width: 11px; height: 11px; border-radius: 50%; margin-right: 7px;
  background: #6e7681 }
pre { margin: 0; padding: 10px 14px 14px; color: #e6edf3; white-space: pre;
  font: 11.8px/1.45 "DejaVu Sans Mono", monospace }
b { color: #7ee787; font-weight: normal }
.row { display: flex; gap: 10px }
.row div { flex: 1; height: 288px; box-sizing: border-box; padding: 6px; overflow: hidden;
  background: white; border: 1px solid #d0d7de; border-radius: 8px }
.row img { width: 100%; height: 100%; object-fit: contain }
"""
BUTTONS = "<i></i>" * 3


class Terminal:
    """A terminal with COLUMNS characters per line that records its output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = b""

    def run(self, command: str) -> None:
        """Runs a command after a prompt; exits if it fails."""
        self.output += f"{PROJECT}$ {command}\r\n".encode()
        reader, writer = pty.openpty()
        termios.tcsetwinsize(writer, (50, COLUMNS))
        process = subprocess.Popen(
            shlex.split(command), cwd=self.folder, stdin=writer, stdout=writer, stderr=writer
        )
        os.close(writer)
        try:
            while piece := os.read(reader, 2**16):
                self.output += piece
        except OSError:  # Linux signals the end of a terminal's output in this way
            os.close(reader)
        if process.wait():
            sys.exit(f"{command}: exit code {process.returncode}\n{self.output.decode()}")

    def show(self, lines: int, until: str = "") -> str:
        """Returns the last lines as HTML: at the end, or at the last match of the regex `until`."""
        output = self.output
        if until:
            matches = list(re.finditer(until.encode(), output))
            output = output[: matches[-1].end()]
        screen = pyte.Screen(COLUMNS, lines)
        pyte.ByteStream(screen).feed(output)
        text = html.escape("\n".join(line.rstrip() for line in screen.display).strip("\n"))
        text = re.sub(rf"^{PROJECT}\$", r"<b>\g<0></b>", text, flags=re.MULTILINE)
        return f'<div class="window"><div class="bar">{BUTTONS}</div><pre>{text}</pre></div>'


@contextmanager
def tensorboard(logs: Path) -> Iterator[str]:
    """Runs TensorBoard on a folder; yields its address."""
    command = ["tensorboard", "--logdir", logs.name, "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(command, cwd=logs.parent, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            address = re.search(r"http://\S+", line)
            if address:
                yield address[0]
                return
        sys.exit("error: TensorBoard did not start")
    finally:
        process.terminate()
        process.wait()


def open_board(page: Page, address: str, tags: str, runs: str, cards: int) -> None:
    """Opens TensorBoard's time series of some tags and runs; waits until all cards are shown."""
    page.add_init_script(
        "localStorage.setItem('_tb_global_settings', JSON.stringify("
        "{timeSeriesSettingsPaneOpened: false, stepSelectorEnabled: false}))"
    )
    filters = f"tagFilter={quote(tags)}&runFilter={quote(runs)}"
    page.goto(f"{address}?darkMode=false&smoothing=0&{filters}#timeseries")
    drawn = "[...document.querySelectorAll('card-view')].filter(card => card.querySelector("
    drawn += "'line-chart canvas, line-chart svg path, img'))"
    page.wait_for_function(f"{drawn}.length === {cards}", timeout=60_000)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(3_000)  # the curves appear after the axes


def inline(picture: bytes) -> str:
    """Returns an HTML element with a PNG."""
    return f'<div><img src="data:image/png;base64,{base64.b64encode(picture).decode()}"></div>'


def save(name: str, picture: bytes) -> None:
    """Writes a PNG with 256 colours to docs/, less than half the size of the original."""
    file = DOCS / name
    colours = Image.open(BytesIO(picture)).convert("RGB")
    colours.quantize(dither=Image.Dither.NONE).save(file, optimize=True)
    size = file.stat().st_size
    print(f"{file.relative_to(DOCS.parent)}: {size / 1000:.0f} kB")
    if size > MAX_PICTURE_SIZE:
        sys.exit(f"error: {name} has {size} bytes; at most {MAX_PICTURE_SIZE} are allowed")


def screenshot(page: Page, content: str) -> bytes:
    """Returns a PNG of an HTML fragment with the width of a README."""
    page.set_content(f"<style>{STYLE.replace('WIDTH', str(WIDTH))}</style><main>{content}</main>")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    picture: bytes = page.locator("main").screenshot()
    return picture


def main() -> None:
    """Trains, evaluates and takes the pictures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("error: chromium was not found on the PATH; install it")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        render = ["cookiecutter", str(DOCS.parent), "--no-input", "--default-config"]
        subprocess.run(render, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        project = Path(folder) / PROJECT
        terminal = Terminal(project)
        terminal.run("python train.py --run-dir runs/default")
        terminal.run("python evaluate.py runs/default")
        Terminal(project).run(
            "python train.py --config config/tutorial.yaml --run-dir runs/tutorial"
        )
        take_pictures(terminal, project / "runs", chromium)


def take_pictures(terminal: Terminal, runs: Path, chromium: str) -> None:
    """Creates all pictures of the runs."""
    results = runs / "default/evaluation/test"
    with sync_playwright() as tools, tensorboard(runs) as address:
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        board = browser.new_page(viewport={"width": 1100, "height": 800})
        open_board(board, address, "misclassified|train/loss|validation/accuracy", "", 4)
        save("tensorboard.png", board.screenshot())
        paper = browser.new_page(viewport={"width": 560, "height": 800}, device_scale_factor=2)
        open_board(paper, address, "train/loss", "default", 1)
        found = [paper.locator("card-view").first.screenshot()]
        names = ("confusion_matrix.png", "misclassified.png")
        found += [(results / name).read_bytes() for name in names]
        row = f'<div class="row">{"".join(map(inline, found))}</div>'
        windows = terminal.show(12, until=r"evaluate: [^\r]*") + terminal.show(10)
        save("run.png", screenshot(paper, windows + row))
        training = terminal.show(25, until=r" 8[0-4]\d/875[^\r]*")
        save("terminal.png", screenshot(paper, training + terminal.show(38)))
        browser.close()


if __name__ == "__main__":
    main()
