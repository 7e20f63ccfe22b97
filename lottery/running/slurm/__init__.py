"""Slurm: its queue, jobs that survive preemption, and what is asked of it."""
