# Adds up the numbers that it is given on standard input.

use strict;
use warnings;

my ($count, $sum) = (0, 0);
while (my $line = <STDIN>) {
    for my $word (split ' ', $line) {
        $count += 1;
        $sum += $word;
    }
}
print "$count numbers, sum $sum\n";
