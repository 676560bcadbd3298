"""How the built-in world is named and which of its scenes are used: by commands, training and evaluation alike."""

BUILT_IN_WORLD = "scenes"
# Of the world that is trained on and evaluated; the seed of a run draws other things, never another world.
WORLD_SEED = 0
TRAINING_SCENES = 30_000
