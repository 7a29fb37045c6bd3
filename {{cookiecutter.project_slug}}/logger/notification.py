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


def post_result(address: str, name: str, run: Path, result: Mapping[str, Any]) -> None:
    """Posts how a run has ended as JSON, ``{"text": ...}``; if that fails, a warning is logged.

    Args:
        address: the address of the webhook; messages do not contain it, because it is a secret.
        name: the name of the settings.
        run: the run folder.
        result: the content of ``result.json``.
    """
    body = json.dumps({"text": describe(name, run, result)}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            pass
    except (OSError, ValueError, http.client.HTTPException) as error:
        server = urlsplit(address).hostname
        log.warning("logger.notify: %s could not be notified: %s", server, error)


def describe(name: str, run: Path, result: Mapping[str, Any]) -> str:
    """One line: what has ended how, where, and with which result."""
    text = f"{name} {result['state']} at step {result['step']} of {result['total_steps']}"
    best = result["best"]
    if best is not None:
        text += f", best {best['metric']} {best['value']:.4g} (step {best['step']})"
    text += f", {result['minutes']:.1f} minutes, {run} on {socket.gethostname()}"
    if result["error"] is not None:
        text += f": {result['error']}"
    return text
