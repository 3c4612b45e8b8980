"""Counts the words that it is given on standard input, and shows the most frequent."""

import re
import sys
from collections import Counter

words = Counter(re.findall(r"\w+", sys.stdin.read().lower()))
print(f"{sum(words.values())} words, {len(words)} of them different")
for word, count in words.most_common(5):
    print(f"{count:6}  {word}")
