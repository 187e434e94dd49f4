from pulumi_tfjobs.policies.packing import serve

serve()
