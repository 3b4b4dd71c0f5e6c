"""The stages that compute is counted and timed by. Imports nothing, so that light modules can use it."""

# Paid once for all questions of a video; `retrieval` only by selectors that keep something of the video.
PREFILL_STAGES = ("vision", "prefill", "compression")
VIDEO_STAGES = (*PREFILL_STAGES, "retrieval")
QUESTION_STAGES = ("selection", "reload", "decode")
STAGES = (*VIDEO_STAGES, *QUESTION_STAGES)
