"""GLM-4V: every time step is a block of its own, and the text of its time stands behind it."""

from x2l.models.families import Family

FAMILY = Family(label_follows=True, space_follows_time=True)
