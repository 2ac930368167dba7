"""Learn GCDs from users who are right, and stay honest with users who are wrong."""

from settings.gcd_sycophancy.full import full
from settings.gcd_sycophancy.nano import nano
from settings.gcd_sycophancy.small import small

SCALES = {"nano": nano, "small": small, "full": full}
