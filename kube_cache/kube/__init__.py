"""The Kubernetes side: API client, watches, the JSON that we read and write. Knows neither Temporal nor the origin."""
