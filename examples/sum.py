"""Adds up the numbers that it is given on standard input."""

import sys

numbers = [int(word) for word in sys.stdin.read().split()]
print(f"{len(numbers)} numbers, sum {sum(numbers)}")
