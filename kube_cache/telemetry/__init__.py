"""What a process tells about itself: logs. Metrics and traces get their modules beside it."""
