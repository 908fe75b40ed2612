"""Language models with image inputs."""
