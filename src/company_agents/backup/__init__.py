"""
Backups: one file that restores an instance, and whether it would. docs/spec/backup.md has the format.
"""
