"""The forecast's activities: ask Prometheus, make the next report in a process of its own, carry out its plans."""
