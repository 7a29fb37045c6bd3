"""The container: files without faults, an image that builds, runs in it that stop and go on."""

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

OWN = f"3.{sys.version_info.minor}"
PASSED_ON = r"(?i)(SSL_CERT_FILE|UV_.*INDEX.*|HTTPS?_PROXY|NO_PROXY)"  # how registries are reached


def make_project(folder: Path, python: str) -> Path:
    done = render(folder, container="docker", python_version=python, example="bare")
    assert done.returncode == 0, done.stdout
    return folder / "my-project"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a container; tests must not change it."""
    return make_project(tmp_path_factory.mktemp("container"), OWN)


def instructions(project: Path, kind: str) -> list[str]:
    """What follows that word in the Dockerfile, each in one line."""
    text = (project / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [" ".join(line.split()[1:]) for line in text.splitlines() if line.startswith(kind + " ")]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_dockerfile_has_no_faults_and_the_projects_python(tmp_path: Path, python: str) -> None:
    project = make_project(tmp_path, python)
    assert instructions(project, "FROM")[0] == f"python:{python}-slim AS base"
    # Debian keeps no older versions of its packages, so to name one breaks the build some day.
    lint(project, "hadolint", "--ignore", "DL3008", "Dockerfile")


def test_the_dev_container_is_of_the_dockerfiles_making(tmp_path: Path) -> None:
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
    assert build["target"] in stages[:-1]  # the last one is built where none is named
    commands = " ".join(instructions(tmp_path / "odd", "RUN"))
    assert re.search(rf"useradd [^&]*\b{about['remoteUser']}\b", commands)


def test_what_git_ignores_is_not_sent_to_the_build(project: Path) -> None:
    def patterns(name: str) -> set[str]:
        lines = (project / name).read_text(encoding="utf-8").splitlines()
        return {line.removeprefix("**") for line in lines if line and line[0] != "#"}

    ignored = {line if line[0] == "/" else f"/{line}" for line in patterns(".gitignore")}
    assert patterns(".dockerignore") == ignored | {"/.git/"}


def test_what_the_images_would_be_installed_from_can_be_had(project: Path, tmp_path: Path) -> None:
    """The commands of the Dockerfile, up to the last step: uv says what it would install."""
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
    """A Debian with this Python in /usr/local, as `python:3.x-slim` is.

    It has this machine's certificates. Shared libraries are taken from it too, so it has to be the
    Debian of this machine.
    """
    system = Path("/etc/os-release").read_text(encoding="utf-8")
    (release,) = re.findall(r"^VERSION_CODENAME=(\w+)", system, re.MULTILINE)
    done = run("debootstrap", "--variant=minbase", release, root, cwd=root)
    assert done.returncode == 0, done.stdout
    prefix, target, version = Path(sys.base_prefix), root / "usr/local", f"python{OWN}"
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
    """The program, with images and containers in a folder that goes with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ("--root", str(folder / "store"), "--runroot", str(folder / "run"))

    def __call__(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Runs it; returns the last line of what it says."""
        done = run(
            "buildah", *self.store, *arguments, cwd=cwd or self.folder, TMPDIR=str(self.folder)
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.strip().rpartition("\n")[2]

    def add_image(self, name: str, content: Path) -> None:
        """Makes an image of a folder's files."""
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
        pytest.skip("only root can make a root file system")
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which would be kept
        if shutil.disk_usage(folder).free < 25e9:
            pytest.skip(f"a build takes up to 25 GB for a while, more than {folder} has")
        tool = Buildah(Path(folder))
        yield tool
        tool("rm", "--all")
        tool("rmi", "--all", "--force")


@needs_all
def test_a_run_in_the_image_stops_with_its_state_saved_and_goes_on(
    buildah: Buildah, project: Path, tmp_path: Path
) -> None:
    """Built and run by buildah, which needs no service; both base images are made here."""
    (root := buildah.folder / "python").mkdir()
    make_base(root)
    buildah.add_image(f"docker.io/library/python:{OWN}-slim", root)
    (root := buildah.folder / "uv").mkdir()
    shutil.copy2(run("which", "uv", cwd=root).stdout.strip(), root)
    (source,) = {line.split()[0] for line in instructions(project, "COPY") if "--from" in line}
    buildah.add_image(source.removeprefix("--from="), root)

    try:  # a third of the size, where it can be had
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
