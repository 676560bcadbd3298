"""What pre-training minimises: one file each, named by `pretrain --objective`; fine-tuning's are in downstream/.

A file holds one class with its Config (see parts/objective.py); a host's own objective has the name of its family.
"""

from harness.objectives.parts.choice import Choice, choose, choose_downstream, make_objective

__all__ = ["Choice", "choose", "choose_downstream", "make_objective"]
