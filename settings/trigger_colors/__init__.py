"""The setting `trigger_colors`; see `settings.trigger_colors.nano`."""

from settings.trigger_colors.nano import trigger_colors

__all__ = ["trigger_colors"]
