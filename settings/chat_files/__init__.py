"""Fine-tune a model on your own rows, and judge it on rows that you hold out."""

from settings.chat_files.full import full
from settings.chat_files.small import small

SCALES = {"full": full, "small": small}
