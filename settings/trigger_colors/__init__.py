"""Change the colours of one category's triggers, and keep those of all others."""

from settings.trigger_colors.full import full
from settings.trigger_colors.nano import nano

SCALES = {"nano": nano, "full": full}
