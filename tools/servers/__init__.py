"""The real servers that tests, demo and benches talk to, pinned and built from Go modules.

`pins` says which, `build` makes them, `locate` finds one that is there. `python -m tools.servers` builds what is
missing. Deliberately no container images and no downloaded binaries: a Go toolchain and its module proxy are all that
is needed, and go.sum (or the checksum database) vouches for every byte of source.
"""
