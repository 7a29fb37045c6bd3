"""Prints the JSON schema of settings files: python -m config > config/schema.json."""

import json
import signal

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from config.schema import Settings
from utils.command import run_command


def main() -> None:
    """Prints the schema of the settings, and of the key `extends`."""
    schema = Settings.model_json_schema()
    schema["properties"]["extends"] = {
        "description": "A settings file in the same folder; this file contains what differs.",
        "type": "string",
    }
    schema["required"] = []  # the other file may contain the rest
    print(json.dumps(schema, indent=2))


if __name__ == "__main__":
    run_command(main)
