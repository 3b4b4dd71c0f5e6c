"""Commands, one file each, and the Hydra application. May import everything; nothing imports it."""
