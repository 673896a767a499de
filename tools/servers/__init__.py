"""The real servers that tests, demo and benches talk to, pinned and built from Go modules.

`pins` lists them, `build` builds them, `cache` finds those that are built. `python -m tools.servers` builds what is
missing. Deliberately no container images and no downloaded binaries: a Go toolchain and its module proxy are enough,
and go.sum (or the checksum database) vouches for every byte of source.
"""
