"""Studies, one YAML file each."""
