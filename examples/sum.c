/* Adds up the numbers that it is given on standard input. */

#include <stdio.h>

int main(void) {
    long long number, sum = 0;
    int count = 0;
    while (scanf("%lld", &number) == 1) {
        count += 1;
        sum += number;
    }
    printf("%d numbers, sum %lld\n", count, sum);
    return 0;
}
