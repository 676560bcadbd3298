"""What formats are made of: files below a folder, rows and texts of them, findings, and what each field holds."""
