"""What objectives are made of: their base class, recipes, momentum, and what the built-in world is taught with."""
