"""What a job is and means: arguments, checks, ranks and roles, success. Pure: no disk, no Pulumi, no gRPC."""
