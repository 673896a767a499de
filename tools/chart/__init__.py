"""What is generated of the Helm chart: `deploy/deploy.yaml`, which is the chart rendered, and its README."""
