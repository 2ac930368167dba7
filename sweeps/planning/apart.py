"""Questions about GPUs that a short-lived process answers, so that the one that asks holds no memory of them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS = 120.0  # for an answer; torch takes seconds to import
logger = logging.getLogger(__name__)


def ask(module: str, question: Any = None) -> Any:
    """Return what a module answers, when it is run with a question as JSON in its argument: JSON on standard output.

    None where it does not answer, as on a machine whose GPUs do not work.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", module, json.dumps(question)]
    try:
        ended = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        logger.warning("%s gave no answer for %.0f s", module, SECONDS)
        return None
    if ended.returncode:
        logger.warning("%s ended with code %d: %s", module, ended.returncode, ended.stderr.strip()[-300:])
        return None
    return json.loads(ended.stdout)
