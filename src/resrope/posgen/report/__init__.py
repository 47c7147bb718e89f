"""What is made of finished cells: tables, pictures, claims, results, and a second look at their weights."""
