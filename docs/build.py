"""Builds the site from all documents: python docs/build.py [FOLDER].

The pages are collected in FOLDER/pages, by default build/site/pages: the documents of the template,
those of a project with the default example, and a reference of the payload's modules. zensical
builds FOLDER/html from them, in strict mode: a broken link, a missing page or picture, and a
module that does not exist are errors.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from urllib.parse import quote, unquote

TEMPLATE = Path(__file__).resolve().parent.parent
DOCS = TEMPLATE / "docs"
PAYLOAD = TEMPLATE / "{{cookiecutter.project_slug}}"
REPOSITORY = "https://github.com/org/torch-template"
PICTURES = {".png", ".svg"}

# Inline code; or the target of a link or picture, of a reference, or of an HTML element.
LINK = re.compile(
    r"`[^`]*`|(?P<before>\]\(|^\[[^\]]+\]:\s+|(?:href|src|srcset)=\")(?P<target>[^)\s\"]+)"
)

# The documents of the template by chapter. A document of docs/ that no pattern matches belongs to
# the last chapter.
CHAPTERS: dict[str, list[str]] = {
    "Start": ["README.md", "docs/from-notebook.md", "docs/how-it-works.md", "docs/questions.md"],
    "Examples": [
        "docs/examples.md",
        "docs/examples/fashion_mnist.md",
        "docs/examples/image_csv.md",
        "docs/examples/tabular_csv.md",
        "docs/examples/text_csv.md",
        "docs/examples/regression.md",
        "docs/examples/*.md",
    ],
    "Project": [],  # the documents of a project
    "Compare": ["docs/comparison.md", "docs/coming-from-*.md", "docs/speed.md"],
    "Reference": [],  # the payload's modules
    "More": ["docs/*.md", "CONTRIBUTING.md", "CHANGELOG.md"],
}
# The packages of the reference, with what they contain.
PACKAGES = {
    "base": "The abstract classes that a project derives from, and the parts of the training loop.",
    "trainer": "What one training step and one evaluation step compute.",
    "data_loader": "Data sets, transforms, samplers and splits.",
    "model": "Networks and losses.",
    "optim": "Optimizers, parameter groups, schedules and the moving average of the weights.",
    "metrics": "The protocol of metrics, and metrics of classification and regression.",
    "storage": "Run folders, checkpoints and exports.",
    "logger": "Console, metrics.csv, TensorBoard, trackers and figures.",
    "config": "The typed settings, and the code that reads them.",
}


@dataclass(frozen=True)
class Page:
    """A page of the site.

    Attributes:
        source: the document.
        path: its path in the site, such as ``project/settings.md``.
        root: the folder that its links may lead to: the template, or a rendered project.
    """

    source: Path
    path: str
    root: Path = TEMPLATE


def main() -> int:
    """Collects the pages and builds the site; returns the exit code of zensical."""
    parser = argparse.ArgumentParser(description="Builds the site from all documents.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=TEMPLATE / "build/site", metavar="FOLDER"
    )
    folder = parser.parse_args().folder.resolve()
    for part in ("pages", "html"):
        shutil.rmtree(folder / part, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        chapters = find_chapters(render_project(Path(temporary)))
        write_pages(chapters, folder / "pages")
    shutil.copytree(DOCS / "assets", folder / "pages/assets")
    navigation = {title: [page.path for page in pages] for title, pages in chapters.items()}
    navigation["Reference"] = write_reference(folder / "pages")
    write_configuration(navigation, folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=folder, check=False)
    if done.returncode == 0:
        print(folder / "html/index.html")
    return done.returncode


def render_project(folder: Path) -> Path:
    """Renders the default example with the pages of all answers; returns its folder."""
    project = render(folder, "container=docker", "project_slug=my-project")
    other = render(folder, "example=tabular_csv", "project_slug=tables")
    shutil.copy(other / "docs/tables.md", project / "docs")
    return project


def render(folder: Path, *answers: str) -> Path:
    """Renders a project, whose slug is the last answer; returns its folder."""
    command = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--no-input"]
    command += ["--default-config", "--output-dir", str(folder), *answers]
    subprocess.run(command, check=True, capture_output=True)
    return (folder / answers[-1].partition("=")[2]).resolve()


def find_chapters(project: Path) -> dict[str, list[Page]]:
    """The pages of each chapter, without those of the reference; each page is in one chapter."""
    found: set[Path] = set()
    chapters: dict[str, list[Page]] = {}
    for title, patterns in CHAPTERS.items():
        chapters[title] = []
        for pattern in patterns:
            for source in sorted(TEMPLATE.glob(pattern)):
                if source not in found:
                    chapters[title].append(Page(source, site_path(source)))
                found.add(source)
    for source in (project / "README.md", *sorted((project / "docs").glob("*.md"))):
        path = f"project/{site_path(source)}"
        chapters["Project"].append(Page(source, path, project))
    return chapters


def site_path(source: Path) -> str:
    """The path of a document in the site: README.md is index.md, and docs/ is the root."""
    if source.name == "README.md":
        return "index.md"
    if source.parent.name == "examples":
        return f"examples/{source.name}"
    return source.name


def write_pages(chapters: Mapping[str, Iterable[Page]], folder: Path) -> None:
    """Writes all pages, with links that lead to pages of the site or to the repository."""
    pages = [page for chapter in chapters.values() for page in chapter]
    paths = {page.source: page.path for page in pages}
    for page in chapters["Project"]:  # documents of the template link to those of the payload
        paths[PAYLOAD / page.source.relative_to(page.root)] = page.path
    for page in pages:
        file = folder / page.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(rewrite_links(page, paths, folder), encoding="utf-8")


def rewrite_links(page: Page, paths: Mapping[Path, str], folder: Path) -> str:
    """The text of a page; code stays as it is."""

    def rewrite(match: re.Match[str]) -> str:
        return rewrite_link(match, page, paths, folder)

    lines = []
    in_code = False
    for line in page.source.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            in_code = not in_code
        if in_code:
            lines.append(line)
        else:
            lines.append(LINK.sub(rewrite, line))
    return "\n".join(lines) + "\n"


def rewrite_link(match: re.Match[str], page: Page, paths: Mapping[Path, str], folder: Path) -> str:
    """A link of a document as it must be in the site; inline code stays as it is.

    A picture is copied into the site.
    """
    target = match["target"]
    if target is None or target.startswith("#") or re.match(r"[a-z]+:", target):
        return match[0]
    path, hash_sign, anchor = target.partition("#")
    source = (page.source.parent / unquote(path)).resolve()
    if source in paths:
        target = paths[source]
    elif source.suffix in PICTURES and source.exists():
        chapter = "template" if page.root == TEMPLATE else "project"
        target = f"pictures/{chapter}/{source.relative_to(page.root).as_posix()}"
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / target)
    else:
        return f"{match['before']}{repository_url(source, anchor, page)}"
    relative = relpath(target, start=Path(page.path).parent)
    return f"{match['before']}{relative}{hash_sign}{anchor}"


def repository_url(source: Path, anchor: str, page: Page) -> str:
    """The web address of a file or folder of the repository, also of one of a rendered project.

    The anchor of a Python file is the name of a function.

    Raises:
        SystemExit: if it does not exist.
    """
    if not source.exists():
        sys.exit(f"error: {page.path} links to {source}, which does not exist")
    file = source.relative_to(page.root)
    if page.root != TEMPLATE and (PAYLOAD / file).exists():
        file = (PAYLOAD / file).relative_to(TEMPLATE)
    elif page.root != TEMPLATE:  # such as the licence, which rendering selects
        file = PAYLOAD.relative_to(TEMPLATE)
    kind = "blob"
    if (TEMPLATE / file).is_dir():
        kind = "tree"
    url = f"{REPOSITORY}/{kind}/main/{quote(file.as_posix())}"
    if not anchor:
        return url
    if source.suffix == ".py":
        anchor = f"L{line_of_function(source, anchor)}"
    return f"{url}#{anchor}"


def line_of_function(file: Path, name: str) -> int:
    """The line at which a function begins.

    Raises:
        SystemExit: if the file has no such function.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith(f"def {name}("):
            return number
    sys.exit(f"error: a document links to {file.name}#{name}, a function that does not exist")


def write_reference(folder: Path) -> list[str]:
    """Writes a page for each package of the payload; returns their paths."""
    paths = []
    for package, contents in PACKAGES.items():
        lines = [f"# {package}", "", contents, ""]
        for file in sorted((PAYLOAD / package).glob("*.py")):
            if not file.name.startswith("__"):
                lines += [f"::: {package}.{file.stem}", ""]
        path = f"reference/{package}.md"
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("\n".join(lines), encoding="utf-8")
        paths.append(path)
    return paths


def write_configuration(navigation: Mapping[str, Iterable[str]], folder: Path) -> None:
    """Writes zensical.toml with the folders and the navigation."""
    chapters = []
    for title, paths in navigation.items():
        listed = ", ".join(f'"{path}"' for path in paths)
        chapters.append(f'  {{ "{title}" = [{listed}] }},')
    added = ['docs_dir = "pages"', 'site_dir = "html"', "nav = [", *chapters, "]"]
    text = (TEMPLATE / "zensical.toml").read_text(encoding="utf-8")
    text = text.replace("[project]", "\n".join(["[project]", *added]), 1)
    text += "\n[project.plugins.mkdocstrings.handlers.python]\n"
    text += f'paths = ["{PAYLOAD.as_posix()}"]\n'
    (folder / "zensical.toml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
