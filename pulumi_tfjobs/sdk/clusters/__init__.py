"""Clusters as components: what a cluster needs for training jobs (GpuAddons), and a whole one (AksGpuCluster).

Nothing here imports ``pulumi_kubernetes`` or ``pulumi_azure_native`` before a component is made: together they are
260 MB, and an extra (``pip install "pulumi-tfjobs[clusters]"``).
"""
