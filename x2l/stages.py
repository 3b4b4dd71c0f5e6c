"""The stages that compute is counted and timed by. Imports nothing, so that light modules can use it."""

VIDEO_STAGES = ("vision", "prefill", "compression")  # paid once for all questions of a video
QUESTION_STAGES = ("selection", "reload", "decode")
STAGES = (*VIDEO_STAGES, *QUESTION_STAGES)
