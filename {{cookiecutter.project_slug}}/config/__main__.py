"""Prints the JSON schema of the settings: python -m config > config/schema.json."""

import json

from config.schema import Settings

print(json.dumps(Settings.model_json_schema(), indent=2))
