"""Percent, rate and remaining time on the Pods that wait for a download: written by the leading operator."""
