"""Files of a model's folder in either layout that describe it without weights."""

from __future__ import annotations

from easyanim_server.config import model_defaults as modeldefaults

CONFIG_FILES = {
    "transformer": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
"""The file that describes each component."""

CONFIG_NAMES = [modeldefaults.INDEX, *(f"{component}/{file}" for component, file in CONFIG_FILES.items())]
"""Without which there is no model."""

CONFIG_PATTERNS = [
    *CONFIG_NAMES,
    modeldefaults.FILE,
    "*/config.json",
    "*/*.index.json",
    "tokenizer*/*",
]
"""All that families read to recognise and describe a checkpoint, for a download without weights."""
