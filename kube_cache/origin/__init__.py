"""The origin: reads object storage over botocore, which is S3, and Google Cloud Storage by its XML API."""
