"""The `WarmPod` workflow and the parts that it owns."""
