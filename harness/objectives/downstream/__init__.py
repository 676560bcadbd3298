"""What fine-tuning minimises: a file per task, or TASK_FAMILY.py where a family of hosts has one of its own."""
