"""What tasks share: images encoded under a method, texts, timing."""
