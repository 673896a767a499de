"""The command line, one file a subcommand, and the only place where the parts are put together.

Holds no logic of its own: `operator` and `agent` build a process out of the watcher, the workflows and the activities.
"""
