"""What hosts are built from."""
