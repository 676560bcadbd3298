"""What a method costs: multiply-adds, training memory, latency, and the report that holds them."""
