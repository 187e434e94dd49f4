"""The Pulumi plugin: TensorFlow training jobs for the engine, over gRPC."""
