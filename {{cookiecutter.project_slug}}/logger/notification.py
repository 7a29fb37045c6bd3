"""The line that logger.notify posts when a run ends, for chats such as Slack and Mattermost."""

import http.client
import json
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from logger.console import log

TIMEOUT_SECONDS = 5.0


class RefuseRedirects(urllib.request.HTTPRedirectHandler):
    """Raises an error for a redirect, after which urllib would send a GET without the line."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        """Raises an OSError with the new server; its path may contain a secret."""
        fp.close()
        new_address = urlsplit(newurl)
        raise OSError(
            f"it redirects to {new_address.scheme}://{new_address.hostname}; set logger.notify to "
            "the new address"
        )


def post(address: str, text: str) -> None:
    """Posts a line as JSON, ``{"text": ...}``; if that fails, a warning is logged.

    Args:
        address: the address of the webhook; messages do not contain it, because it is a secret.
        text: the line.
    """
    body = json.dumps({"text": text}).encode()
    headers = {"Content-Type": "application/json"}
    opener = urllib.request.build_opener(RefuseRedirects)
    server: str | None = "the server"
    try:
        server = urlsplit(address).hostname
        request = urllib.request.Request(address, body, headers, method="POST")
        with opener.open(request, timeout=TIMEOUT_SECONDS):
            pass
    except (OSError, ValueError, http.client.HTTPException) as error:
        log.warning("logger.notify: %s could not be notified: %s", server, error)


def describe_result(name: str, run: Path, result: Mapping[str, Any]) -> str:
    """One line: what has ended how, where, and with which result.

    Args:
        name: the name of the settings.
        run: the run folder.
        result: the content of ``result.json``.
    """
    text = f"{name} {result['state']} at step {result['step']} of {result['total_steps']}"
    best = result["best"]
    if best is not None:
        text += f", best {best['metric']} {best['value']:.4g} (step {best['step']})"
    text += f", {result['minutes']:.1f} minutes, {run} on {socket.gethostname()}"
    if result["error"] is not None:
        text += f": {result['error']}"
    return text


def describe_early_failure(name: str, run: Path | None, error: str) -> str:
    """One line: what has failed before it trained, where and why.

    Args:
        name: the name of the settings.
        run: the run folder; None for a new run, which leaves none.
        error: the first line of the error.
    """
    text = f"{name} failed before training"
    if run is not None:
        text += f", {run}"
    return f"{text} on {socket.gethostname()}: {error}"
