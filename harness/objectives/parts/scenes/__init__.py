"""The built-in world as its own curriculum teaches it: its texts and facts in memory, and the losses about them."""
