"""Speed as ratios: contestants take turns in one process, so that a busy machine slows all of them alike."""
