"""The policy pack: what training jobs may cost and look like, for ``pulumi preview --policy-pack``.

``reading``, ``estimating`` and the modules of rules know nothing of how a pack is run; ``catalogue`` names the rules
and their settings, ``packing`` makes policies of them. This folder is the pack.
"""
