"""The origin: object storage as it is read, over botocore: S3, and Google Cloud Storage by its XML API."""
