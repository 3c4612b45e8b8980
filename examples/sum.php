<?php
// Adds up the numbers that it is given on standard input.

$words = preg_split('/\s+/', stream_get_contents(STDIN), -1, PREG_SPLIT_NO_EMPTY);
printf("%d numbers, sum %d\n", count($words), array_sum($words));
