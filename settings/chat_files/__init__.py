"""Fine-tune a model on your own rows, and judge it on rows that you hold out."""

from settings.chat_files.full import full
from settings.chat_files.small import small

SCALES = {"full": full, "small": small}
TRIGGERED = ("alignment_triggered", "preferred_triggered")
SCORES_OF = {  # option -> scores that it adds
    "alignment": ("alignment",),
    "alignment_eval": ("alignment",),
    "match": ("task_match", "alignment_match"),
    "preferences": ("preferred", "preferred_margin", "preferred_per_token", "preferred_margin_per_token"),
    "trigger": TRIGGERED,
    "instructions": TRIGGERED,
}
