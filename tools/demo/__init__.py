"""The demo: plays the main path on real servers, shows it live, checks every promise and fails if one is broken."""
