"""Starts the project's commands: as jobs of SLURM (launchers.command), and the demo on one machine."""
