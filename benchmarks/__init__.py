"""How fast the product is, each figure beside a baseline that was measured in the same minutes. See README.md."""
