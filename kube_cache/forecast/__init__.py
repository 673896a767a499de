"""Forecasts the demand for a dataset from its last weeks, and judges by replay whether acting on the forecast pays.

Pure functions over numbers: no clock, no network, no Temporal, no Kubernetes. The agents do not import this package.
Why each choice was made, with figures: docs/design/prediction.md.
"""
