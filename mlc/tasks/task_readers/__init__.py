"""Readers behind mlc.tasks.task_files: from sources to rows, from rows to examples."""
