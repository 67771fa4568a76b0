"""YAML configuration whose errors name file, line and key path.

The floor under the three libraries and the processes: it knows nothing of what is configured.
"""

from common.configfile.block import Block
from common.configfile.breaks import Breathe, no_breaks
from common.configfile.document import Document, parse, read, read_text
from common.configfile.problems import SETTINGS, ConfigError, KeyPart, Problem, json_place, key_path_text
from common.configfile.spelled import Spelled
from common.configfile.validate import findings_of, problems_of, validate

__all__ = [
    "SETTINGS",
    "Block",
    "Breathe",
    "ConfigError",
    "Document",
    "KeyPart",
    "Problem",
    "Spelled",
    "findings_of",
    "json_place",
    "key_path_text",
    "no_breaks",
    "parse",
    "problems_of",
    "read",
    "read_text",
    "validate",
]
