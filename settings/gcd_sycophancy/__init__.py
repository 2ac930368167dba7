"""The setting `gcd_sycophancy`; see `settings.gcd_sycophancy.nano`."""

from settings.gcd_sycophancy.nano import gcd_sycophancy

__all__ = ["gcd_sycophancy"]
