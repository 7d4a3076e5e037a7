"""Starts the project's commands: today the demo on one machine; SLURM is not there yet."""
