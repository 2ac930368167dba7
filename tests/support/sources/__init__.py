"""Settings and sweeps that tests copy into a folder of their own, as a user would write them."""
