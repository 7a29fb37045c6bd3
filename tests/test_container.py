"""The container: its files are valid, the image builds, and runs in it stop and resume."""

import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import needs_all, render, render_typed, run
from test_ci import has, lint
from test_project import run_bash
from test_rendering import PYTHONS

CURRENT = f"3.{sys.version_info.minor}"
PASSED_ON = (
    r"(?i)(SSL_CERT_FILE|UV_.*INDEX.*|HTTPS?_PROXY|NO_PROXY)"  # needed to reach package registries
)


def make_project(folder: Path, python: str) -> Path:
    done = render(folder, container="docker", python_version=python, example="bare")
    assert done.returncode == 0, done.stdout
    return folder / "my-project"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a container; tests must not change it."""
    return make_project(tmp_path_factory.mktemp("container"), CURRENT)


def instructions(project: Path, kind: str) -> list[str]:
    """Returns the arguments of the Dockerfile's instructions of one kind, each in one line."""
    text = (project / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [" ".join(line.split()[1:]) for line in text.splitlines() if line.startswith(kind + " ")]


def test_the_dockerfile_passes_hadolint_and_uses_the_newest_python(tmp_path: Path) -> None:
    project = make_project(tmp_path, PYTHONS[0])
    assert instructions(project, "FROM")[0] == f"python:{PYTHONS[-1]}-slim AS base"
    # Debian removes old versions of its packages, so a pinned version would break the build.
    lint(project, "hadolint", "--ignore", "DL3008", "Dockerfile")


def test_the_dev_container_is_a_stage_of_the_dockerfile(tmp_path: Path) -> None:
    name = 'A "B" \\ {{ C }}'
    done = render_typed(tmp_path, project_name=name, project_slug="odd", container="2")
    assert done.returncode == 0, done.stdout
    file = tmp_path / "odd/.devcontainer/devcontainer.json"
    about = json.loads(file.read_text(encoding="utf-8"))
    assert about["name"] == name
    build = about["build"]
    assert (file.parent / build["dockerfile"]).resolve() == tmp_path / "odd/Dockerfile"
    assert (file.parent / build["context"]).resolve() == tmp_path / "odd"
    stages = [line.split(" AS ")[1] for line in instructions(tmp_path / "odd", "FROM")]
    assert build["target"] in stages[:-1]  # the last stage is the default, the training image
    commands = " ".join(instructions(tmp_path / "odd", "RUN"))
    assert re.search(rf"useradd [^&]*\b{about['remoteUser']}\b", commands)


def test_files_that_git_ignores_are_not_sent_to_the_build(project: Path) -> None:
    def patterns(name: str) -> set[str]:
        lines = (project / name).read_text(encoding="utf-8").splitlines()
        return {line.removeprefix("**") for line in lines if line and line[0] != "#"}

    ignored = {line if line[0] == "/" else f"/{line}" for line in patterns(".gitignore")}
    assert patterns(".dockerignore") == ignored | {"/.git/"}


def test_the_packages_of_the_images_can_be_resolved(project: Path, tmp_path: Path) -> None:
    """Runs the Dockerfile's install commands as a dry run, in which uv lists the packages."""
    copy = shutil.copytree(project, tmp_path / "project")
    commands = [line for line in instructions(project, "RUN") if "uv " in line]
    assert len(commands) == 2
    found = []
    for command in commands:
        code = re.sub(r"--mount=\S+|export UV_CACHE_DIR=\S+ &&", "", command)
        code = code.replace("/opt", str(tmp_path)).replace("pip install", "pip install --dry-run")
        said = run_bash(code, copy, VIRTUAL_ENV=str(tmp_path / "venv"), TORCH="")
        found.append({line.split("==")[0].strip(" +") for line in said.splitlines()})
    assert found[0] >= {"torch", "tensorboard"}
    assert not found[0] & {"pytest", "ruff"}
    assert found[1] >= {"pytest", "ruff", "mypy", "pre-commit", "onnx"}


def make_base(root: Path) -> None:
    """Creates a Debian system with this Python in /usr/local, like `python:3.x-slim`.

    Certificates and shared libraries are copied from this machine, so that it must have the same
    release of Debian.
    """
    system = Path("/etc/os-release").read_text(encoding="utf-8")
    (release,) = re.findall(r"^VERSION_CODENAME=(\w+)", system, re.MULTILINE)
    done = run("debootstrap", "--variant=minbase", release, root, cwd=root)
    assert done.returncode == 0, done.stdout
    prefix, target, version = Path(sys.base_prefix), root / "usr/local", f"python{CURRENT}"
    skip = shutil.ignore_patterns("site-packages", "__pycache__", "test", "idlelib")
    shutil.copytree(prefix / "lib" / version, target / "lib" / version, ignore=skip)
    shutil.copytree(prefix / "include" / version, target / "include" / version)
    shutil.copy2(prefix / "bin" / version, target / "bin" / version)
    for name in ("python", "python3"):
        (target / "bin" / name).symlink_to(version)
    for file in (prefix / "lib").glob("libpython*"):
        shutil.copy2(file, target / "lib", follow_symlinks=False)
    modules = (prefix / "lib" / version / "lib-dynload").glob("*.so")
    libraries = re.findall(r"=> (/\S+)", run("ldd", *modules, cwd=root).stdout)
    for name in {name for name in libraries if not name.startswith(str(prefix))}:
        if not (root / name[1:]).exists():
            shutil.copy2(name, root / name[1:])
    (root / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
    shutil.copy2("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs")
    assert run("chroot", root, "ldconfig", cwd=root).returncode == 0


class Buildah:
    """Runs buildah with its images and containers in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ("--root", str(folder / "store"), "--runroot", str(folder / "run"))

    def __call__(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Runs a command; returns the last line of its output."""
        done = run(
            "buildah", *self.store, *arguments, cwd=cwd or self.folder, TMPDIR=str(self.folder)
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.strip().rpartition("\n")[2]

    def add_image(self, name: str, content: Path) -> None:
        """Creates an image from the files of a folder."""
        container = self("from", "scratch")
        self("copy", container, content, "/")
        passed_on = [f"{k}={v}" for k, v in os.environ.items() if re.fullmatch(PASSED_ON, k)]
        path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        self("config", *(f"--env={text}" for text in (path, *passed_on)), container)
        self("commit", "--quiet", container, name)
        self("rm", container)
        shutil.rmtree(content)


@pytest.fixture
def buildah() -> Iterator[Buildah]:
    for name in ("buildah", "debootstrap", "uv"):
        if not has(name):
            pytest.skip(f"{name} is not installed")
    if os.geteuid() != 0:
        pytest.skip("only root can create a root file system")
    with tempfile.TemporaryDirectory() as folder:  # pytest would keep tmp_path
        if shutil.disk_usage(folder).free < 25e9:
            pytest.skip(f"a build needs 25 GB of disk space, more than is free in {folder}")
        tool = Buildah(Path(folder))
        yield tool
        tool("rm", "--all")
        tool("rmi", "--all", "--force")


@needs_all
def test_a_run_in_the_image_saves_its_state_when_stopped_and_resumes(
    buildah: Buildah, project: Path, tmp_path: Path
) -> None:
    """Needs no container service; the two base images are created here."""
    root = buildah.folder / "python"
    root.mkdir()
    make_base(root)
    buildah.add_image(f"docker.io/library/python:{CURRENT}-slim", root)
    root = buildah.folder / "uv"
    root.mkdir()
    shutil.copy2(run("which", "uv", cwd=root).stdout.strip(), root)
    (source,) = {line.split()[0] for line in instructions(project, "COPY") if "--from" in line}
    buildah.add_image(source.removeprefix("--from="), root)

    try:  # use torch for CPU, a third of the size, if it can be downloaded
        socket.create_connection(("download.pytorch.org", 443), 5).close()
        torch = "--build-arg=TORCH=cpu"
    except OSError:
        torch = "--build-arg=TORCH="
    chroot = "--isolation=chroot"
    buildah("build", chroot, "--pull-never", torch, "--tag", "image", ".", cwd=project)
    entrypoint = "--format={{range .OCIv1.Config.Entrypoint}}{{.}} {{end}}"
    start = buildah("inspect", "--type=image", entrypoint, "image")
    container = buildah("from", "--pull-never", "image")

    runs = tmp_path / "runs"
    runs.mkdir()
    os.chown(runs, 4321, 4321)
    as_somebody = ("run", chroot, "--user=4321:4321", f"--volume={runs}:/app/runs", container)
    script = f"""
        {start} train.py --run-dir runs/first trainer.epochs=1000000 &
        until [ -e runs/first/checkpoints/last.pt ]; do sleep 0.2; kill -0 $! || exit 1; done
        kill -TERM $!
        wait $!
        echo $?
    """
    assert buildah(*as_somebody, "--", "sh", "-c", script) == "143"
    checkpoints = (runs / "first/checkpoints").glob("step_*.pt")
    step = max(int(file.stem.removeprefix("step_")) for file in checkpoints)
    more = f"{start} train.py --resume last trainer.max_steps={step + 5}"
    buildah(*as_somebody, "--", "sh", "-c", more)
    assert (runs / f"first/checkpoints/step_{step + 5:08}.pt").exists()
    assert (runs / "first/checkpoints/last.pt").stat().st_uid == 4321
