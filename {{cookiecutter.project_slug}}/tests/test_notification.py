"""logger.notify posts one line to a web server when a run ends."""
# ruff: noqa: D103  the names of the tests state what they test

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import TINY_MODEL
from stopped_runs import during_step, fail_with

from data_loader.synthetic import Synthetic
from logger import notification
from logger.notification import post
from trainer.classifier import Classifier

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
SMALL = (*TINY_MODEL, "trainer.epochs=1")
SECRET = "T123/secret"


class Webhook(BaseHTTPRequestHandler):
    """Keeps the texts that it receives, and answers with a status."""

    texts: ClassVar[list[str]] = []
    status = 200
    location = ""

    def do_GET(self) -> None:
        """Answers a request that does not post."""
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        """Keeps the text."""
        length = int(self.headers["Content-Length"])
        assert self.headers["Content-Type"] == "application/json"
        content = json.loads(self.rfile.read(length))
        assert list(content) == ["text"]
        self.texts.append(content["text"])
        self.send_response(self.status)
        if self.location:
            self.send_header("Location", self.location)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Prints nothing."""


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Webhook]]:
    """A server on this machine; its address is in the setting that `setting_of` returns."""
    monkeypatch.setenv("no_proxy", "*")
    handler: Any = type("Handler", (Webhook,), {"texts": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        handler.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield handler
        server.shutdown()
        thread.join()


def setting_of(webhook: Any) -> str:
    return f"logger.notify=http://127.0.0.1:{webhook.port}/{SECRET}"


def test_the_end_of_a_run_is_posted(
    tmp_path: Path, train: Command, webhook: type[Webhook], capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, *SMALL, "checkpoint.monitor=accuracy", setting_of(webhook)) == 0
    (text,) = webhook.texts
    for part in ("synthetic finished", "step 16 of 16", "best accuracy 0.", str(run), "minutes"):
        assert part in text
    assert "\n" not in text
    assert SECRET not in capsys.readouterr().out.replace(setting_of(webhook), "")


def test_a_failure_is_posted_with_its_error(
    tmp_path: Path, train: Command, webhook: type[Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    during_step(monkeypatch, 1, fail_with(ValueError("too\nbad")), "after_step")
    with pytest.raises(ValueError, match="bad"):
        train(tmp_path / "run", *SMALL, setting_of(webhook))
    (text,) = webhook.texts
    assert "synthetic failed at step 1 of 16" in text
    assert "ValueError: too bad" in text


def failing(*_: object) -> None:
    raise ZeroDivisionError("no\nvalue")


@pytest.mark.parametrize(
    ("owner", "method"), [(Synthetic, "__getitems__"), (Classifier, "evaluation_step")]
)
def test_a_failure_before_training_is_posted_once(
    tmp_path: Path,
    train: Command,
    webhook: type[Webhook],
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    method: str,
) -> None:
    monkeypatch.setattr(owner, method, failing)
    assert train(tmp_path / "run", *SMALL, setting_of(webhook)) in (1, 2)
    (text,) = webhook.texts
    assert text.startswith("synthetic failed before training")
    assert "ZeroDivisionError: no value" in text
    assert not (tmp_path / "run").exists()


def test_an_unusable_device_or_run_folder_is_posted(
    tmp_path: Path, train: Command, webhook: Any
) -> None:
    assert train(tmp_path / "run", *SMALL, "device=cuda:99", setting_of(webhook)) == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").touch()
    assert train(tmp_path / "full", *SMALL, setting_of(webhook)) == 2
    device_text, folder_text = webhook.texts
    for text in (device_text, folder_text):
        assert text.startswith("synthetic failed before training")
    assert "cuda:99" in device_text
    assert "full is not empty" in folder_text


def test_a_refused_resume_is_posted_with_its_run(
    tmp_path: Path, train: Command, command: Command, webhook: type[Webhook]
) -> None:
    run = tmp_path / "run"
    assert train(run, *SMALL, "trainer.max_steps=1") == 0
    assert command("train", "--resume", run, "seed=1", setting_of(webhook)) == 2
    (text,) = webhook.texts
    assert f"failed before training, {run} on " in text


@pytest.mark.parametrize("failure", ["status", "closed port", "no answer"])
def test_a_server_that_fails_is_a_warning(
    tmp_path: Path,
    train: Command,
    webhook: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    failure: str,
) -> None:
    monkeypatch.setattr(notification, "TIMEOUT_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if failure == "status":
            webhook.status = 500
        else:
            webhook.port = silent.getsockname()[1]
        if failure == "no answer":
            silent.listen()
        assert train(tmp_path / "run", *SMALL, setting_of(webhook)) == 0
    output = capsys.readouterr().out
    assert "logger.notify: 127.0.0.1 could not be notified: " in output
    assert json.loads((tmp_path / "run/result.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_warning_with_the_new_server(
    webhook: Any, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    webhook.status = status
    webhook.location = "https://new.example/T456/secret"
    post(setting_of(webhook).partition("=")[2], "finished")
    (record,) = caplog.records
    for part in ("logger.notify", "127.0.0.1", "https://new.example"):
        assert part in record.getMessage()
    assert "secret" not in record.getMessage()


def test_an_address_that_cannot_be_read_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    post("http://[::1/secret", "finished")
    (record,) = caplog.records
    assert "logger.notify" in record.getMessage()


@pytest.mark.parametrize(
    "address", ["ftp://a.b/c", "file:///etc/passwd", "a.b/c", "https://", "''"]
)
def test_other_addresses_are_errors(refused: Callable[..., str], address: str) -> None:
    message = refused(f"logger.notify={address}")
    assert "logger.notify" in message
    assert "https://" in message
