"""What a Pulumi program imports: resources, components and the types of their arguments."""
