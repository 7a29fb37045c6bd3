"""The site: it builds without a warning, is complete, and needs nothing from the internet."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from conftest import FILES, PAYLOAD, TEMPLATE, clone, run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Attributes whose targets a browser fetches without being asked.
FETCHED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src")}
NOT_FETCHED = {"canonical", "prev", "next", "alternate"}  # links of a head
MAX_PICTURE_SIZE = 160_000  # bytes, of a figure in docs/examples


class Elements(HTMLParser):
    """Collects the links, the fetched files and the anchors of an HTML file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for each element."""
        attributes = {name: value or "" for name, value in attrs}
        self.anchors |= {attributes.get("id", ""), attributes.get("name", "")}
        for name, value in attributes.items():
            if tag == "a" and name == "href":
                self.links.add(value)
            elif (tag, name) in FETCHED and attributes.get("rel") not in NOT_FETCHED:
                self.fetched.add(value)


def build(template: Path, folder: Path) -> tuple[int, str]:
    """Builds the site of a template in a folder; returns the exit code and the output."""
    done = run("python", template / "docs/build.py", folder, cwd=folder)
    return done.returncode, done.stdout


def test_the_site_is_complete_and_fetches_nothing(tmp_path: Path) -> None:
    code, output = build(TEMPLATE, tmp_path)
    assert code == 0, output
    html = tmp_path / "html"
    pages = {file: Elements(file) for file in html.rglob("*.html")}
    check_pages(html)
    check_targets(pages)
    for file, elements in pages.items():
        foreign = [name for name in elements.fetched if re.match(r"(https?:)?//", name)]
        assert foreign == [], file
    for file in html.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", file.read_text()), file
    if CHROMIUM:
        for name in ("index.html", "how-it-works.html", "reference/base.html"):
            assert fetched_by_browser(html / name, tmp_path / "browser") == []


def check_pages(html: Path) -> None:
    """Each document has a page, with a place in the search; each example has a figure."""
    names = {file.stem for file in (TEMPLATE / "docs").glob("*.md")}
    names |= {f"project/{file.stem}" for file in (PAYLOAD / "docs").glob("*.md")}
    names |= {f"examples/{name}" for name in FILES}
    names |= {"index", "project/index", "reference/base", "reference/config", "CHANGELOG"}
    found = {file.relative_to(html).with_suffix("").as_posix() for file in html.rglob("*.html")}
    assert names <= found
    index = (html / "search.js").read_text(encoding="utf-8")
    assert not [name for name in names if f'"{name}.html' not in index]
    for example in FILES:
        pictures = Elements(html / f"examples/{example}.html").fetched
        assert any(f"{example}-" in name for name in pictures), example
    for picture in (TEMPLATE / "docs/examples").glob("*.png"):
        assert picture.stat().st_size <= MAX_PICTURE_SIZE, picture.name


def check_targets(pages: dict[Path, Elements]) -> None:
    """All links and pictures that lead to the site itself have a target."""
    for file, elements in pages.items():
        if file.name == "404.html":  # its links are absolute
            continue
        for link in elements.links | elements.fetched:
            if re.match(r"\w+:", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (file.parent / path.partition("?")[0]).resolve() if path else file
            if target.is_dir():
                target /= "index.html"
            assert target.exists(), f"{file.name}: {link}"
            if anchor and target in pages:
                assert anchor in pages[target].anchors, f"{file.name}: {link}"


def fetched_by_browser(page: Path, folder: Path) -> list[str]:
    """The web addresses that a page, with its scripts, makes a browser fetch.

    The browser's own requests, such as those for updates, have no origin.
    """
    log = folder / "network.json"
    command = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"]
    command += [f"--user-data-dir={folder}", f"--log-net-log={log}", "--dump-dom", page.as_uri()]
    done = run(str(CHROMIUM), *command, cwd=page.parent)
    assert "</html>" in done.stdout
    recorded = json.loads(log.read_text(encoding="utf-8"))
    kind = recorded["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    addresses = []
    for event in recorded["events"]:
        values = event.get("params", {})
        if event["type"] == kind and values.get("initiator", "not an origin") != "not an origin":
            addresses.append(str(values["url"]))
    return [address for address in addresses if address.startswith("http")]


def test_a_broken_link_or_a_missing_picture_fails_the_build(tmp_path: Path) -> None:
    template = clone(tmp_path)
    page = template / "docs/new.md"
    cases = {
        "[a](nowhere.md)": "nowhere.md",
        "![a](nowhere.png)": "nowhere.png",
        "[a](../tests/test_docs.py#test_nothing)": "test_nothing",
        "[a](how-it-works.md#nowhere)": "anchor",
    }
    for text, message in cases.items():
        page.write_text(f"# New\n\n{text}\n", encoding="utf-8")
        code, output = build(template, tmp_path)
        assert code != 0, text
        assert message in output, output
