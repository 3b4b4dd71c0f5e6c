"""Qwen3-VL: every time step is a block of its own, behind the text of its time.

transformers 5 keeps the template's `<|vision_start|>` and `<|vision_end|>` around the whole expanded video; 4.57, which
the models were published with, replaced them too (each time step brings its own pair). The `reference` rule does so.
"""

from x2l.models.families import Family

FAMILY = Family(
    wrapper=("<|vision_start|>", "<|vision_end|>"),
    extras=("visual_pos_masks", "deepstack_visual_embeds"),
    space_follows_time=True,
)
