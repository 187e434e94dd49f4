"""What runs first in a pod: standard library only, sent along as one file (see ``package.py``)."""
