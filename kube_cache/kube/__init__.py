"""The Kubernetes side: API client, reflector, the patches that we send, the seat we create. Knows no Temporal and no S3."""
