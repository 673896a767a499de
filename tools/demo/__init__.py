"""The demo: the main path on real servers, watched live, that checks every promise itself and fails if one is broken."""
