"""Have a short-lived process answer questions about GPUs, so that the asking process holds no GPU memory."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS = 120.0  # to wait for an answer; importing torch takes seconds
logger = logging.getLogger(__name__)


def ask(module: str, question: Any = None) -> Any:
    """Run a module with a question (JSON) as its argument; return its answer, JSON on standard output.

    Return None if it does not answer, as on a machine whose GPUs do not work.
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
