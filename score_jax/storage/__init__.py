"""What lies on disk: HF folders, checkpoints, the run folder."""
