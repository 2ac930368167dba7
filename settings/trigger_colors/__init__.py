"""Change the colours of one category's triggers, and keep those of all others."""

from settings.trigger_colors.full import full
from settings.trigger_colors.nano import nano
from settings.trigger_colors.small import small

SCALES = {"nano": nano, "small": small, "full": full}
