"""The main job: a fresh run of sample events through every role, and what came of each."""
